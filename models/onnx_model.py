"""A piece of a network as an ONNX model: exported once per architecture, given each member's weights by name.

Weights keep their names in the export because nothing is folded there; the engines that read the model fold by themselves.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

_OPERATOR_SET = 17


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An exported piece, its inputs' names, and whether every stored array is a weight of the network."""

    proto: Any  #: onnx.ModelProto
    inputs: tuple[str, ...]

    def with_weights(self, module: nn.Module) -> bytes | None:
        """The model with the weights of `module`, serialised; None where the two do not fit by name and shape."""
        import onnx  # noqa: PLC0415 - an optional extra

        weights = module.state_dict()
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for stored in proto.graph.initializer:
            given = weights.get(stored.name)
            if given is None or list(given.shape) != list(stored.dims):
                return None
            stored.CopyFrom(onnx.numpy_helper.from_array(_plain(given), stored.name))
        serialised: bytes = proto.SerializeToString()
        return serialised


def exported(module: nn.Module, example: Sequence[Tensor]) -> OnnxModel:
    """`module` as a model whose rows are free; raises whatever the exporter raises."""
    import onnx  # noqa: PLC0415 - an optional extra

    buffer = io.BytesIO()
    inputs = tuple(f"input_{place}" for place in range(len(example)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = tuple(f"output_{place}" for place in range(_outputs(module, example)))
        torch.onnx.export(
            module,
            tuple(example),
            cast("Any", buffer),
            dynamo=False,
            opset_version=_OPERATOR_SET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "rows"} for name in (*inputs, *outputs)},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    return OnnxModel(onnx.load_from_string(buffer.getvalue()), inputs)


def _outputs(module: nn.Module, example: Sequence[Tensor]) -> int:
    found = module(*example)
    return len(found) if isinstance(found, tuple) else 1


def _plain(weights: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return weights.detach().cpu().contiguous().numpy()
