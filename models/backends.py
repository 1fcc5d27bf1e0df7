"""What can run a deterministic piece of a network: plain PyTorch always, compiled engines where they are installed.

None is trusted: whoever builds one compares it with plain PyTorch before it is used (`models.backend_choice`).
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.onnx_model import OnnxModel, exported

Run = Callable[..., tuple[Tensor, ...]]


class Backend(StrEnum):
    """An engine that runs one piece of a network."""

    EAGER = "eager"  #: PyTorch, operator by operator.
    FOLDED = "folded"  #: PyTorch with batch normalisation folded into convolutions.
    FROZEN = "frozen"  #: A TorchScript trace with constants folded in.
    COMPILED = "compiled"  #: torch.compile; on CUDA with CUDA graphs.
    ONNXRUNTIME = "onnxruntime"  #: ONNX Runtime, on the CPU.
    OPENVINO = "openvino"  #: OpenVINO, on the CPU.


_PACKAGES = {Backend.ONNXRUNTIME: ("onnx", "onnxruntime"), Backend.OPENVINO: ("onnx", "openvino")}
_ON_CPU = (Backend.EAGER, Backend.FOLDED, Backend.FROZEN, Backend.ONNXRUNTIME, Backend.OPENVINO)
_ON_CUDA = (Backend.EAGER, Backend.COMPILED)


def available(device: torch.device) -> tuple[Backend, ...]:
    """The back ends that are worth trying on `device` with what is installed, plain PyTorch first.

    torch.compile is left out on the CPU: it takes half a minute per piece, needs a C++ compiler, and wins nowhere.
    """
    known = _ON_CUDA if device.type == "cuda" else _ON_CPU
    return tuple(b for b in known if all(find_spec(package) for package in _PACKAGES.get(b, ())))


def versions(backend: str) -> str:
    """The back end, and the version of the library behind it where that is not torch, as it stands in a fingerprint."""
    if backend not in _PACKAGES:
        return str(backend)
    return f"{backend} {version(_PACKAGES[Backend(backend)][-1])}"


class Builder:
    """Builds runs of one piece for several members, which differ in their weights only."""

    def __init__(self, example: Sequence[Tensor]) -> None:
        self._example = tuple(example)
        self._onnx: OnnxModel | None = None

    def build(self, backend: Backend, piece: fx.GraphModule) -> Run:
        """`piece` run by `backend`; raises whatever the library behind it raises."""
        match backend:
            case Backend.EAGER:
                return eager(piece)
            case Backend.FOLDED:
                return eager(_folded(piece))
            case Backend.FROZEN:
                return eager(self._frozen(piece))
            case Backend.COMPILED:
                return eager(_compiled(piece))
            case Backend.ONNXRUNTIME:
                return _in_onnxruntime(self._serialised(piece))
            case Backend.OPENVINO:
                return _in_openvino(self._serialised(piece))

    def _frozen(self, piece: fx.GraphModule) -> nn.Module:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            jit: Any = torch.jit  # torch leaves it untyped
            frozen: nn.Module = jit.freeze(jit.trace(piece, self._example, check_trace=False).eval())
            return frozen

    def _serialised(self, piece: fx.GraphModule) -> bytes:
        if self._onnx is None:
            self._onnx = exported(piece, self._example)
        fitting = self._onnx.with_weights(piece)
        if fitting is not None:
            return fitting
        own: bytes = exported(piece, self._example).proto.SerializeToString()
        return own


def eager(piece: nn.Module) -> Run:
    """`piece` as it is, its results as a tuple."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = piece(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return run


def _folded(piece: fx.GraphModule) -> nn.Module:
    from torch.fx.experimental.optimization import fuse  # noqa: PLC0415 - only where this back end is tried

    fused: nn.Module = fuse(piece)
    return fused


def _compiled(piece: fx.GraphModule) -> nn.Module:
    on_cuda = any(weights.is_cuda for weights in piece.parameters())
    made: Any = torch.compile(piece, mode="reduce-overhead" if on_cuda else "default")
    return made  # type: ignore[no-any-return]


def _in_onnxruntime(model: bytes) -> Run:
    import onnxruntime  # noqa: PLC0415 - an optional extra

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [known.name for known in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in session.run(None, feed))

    return run


def _in_openvino(model: bytes) -> Run:
    import openvino  # noqa: PLC0415 - an optional extra

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {place: value.contiguous().numpy() for place, value in enumerate(inputs)}
        found = request.infer(given, share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(found[place]) for place in range(len(found)))

    return run


def machine() -> str:
    """What the speed of a back end depends on besides the network: processor, instruction set, threads."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} threads={torch.get_num_threads()}"
