"""Which release may speak: the champion, when MLflow and our own alias history agree on version and digest.

Why both: an alias in MLflow can be moved by anyone who reaches the server, and our history is append-only. When they
disagree nobody knows which release was promoted, so no release speaks and every case goes to a clinician.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.bootstrap import House
from pipeline.domain.case import Reason
from pipeline.errors import HaltPipeline, RetryLater, SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.settings import Settings
from pipeline.store import alias_rows


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A loaded predictor, or None with the sentence that says why no release may speak."""

    predictor: Any | None
    problem: str | None


class ChampionDesk:
    """Resolves the champion at every claim and keeps the last loaded predictor of each protocol."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loaded: dict[str, Any] = {}

    def resolve(self, protocol: TriageProtocol) -> Champion:
        """The champion of `protocol` at this moment. Raises RetryLater when the registry is away."""
        try:
            return Champion(predictor=self._predictor(protocol), problem=None)
        except RetryLater:
            raise
        except SecondreadError as error:
            return Champion(predictor=None, problem=f"{Reason.RELEASE_INVALID}: {error}")
        except Exception as error:  # noqa: BLE001 - a registry that breaks must not stop studies from being routed
            return Champion(
                predictor=None, problem=f"{Reason.RELEASE_INVALID}: the release does not load ({type(error).__name__})"
            )

    def _predictor(self, protocol: TriageProtocol) -> Any:
        digest, version, model = self._agreed(protocol)
        kept = self._loaded.get(protocol.name)
        if kept is not None and kept.release_digest == digest:
            return kept
        release = self._house.registry.download(model, version)
        if release.digest != digest:
            raise HaltPipeline(f"{model}: the bytes of version {version} are not those that were promoted")
        self._loaded[protocol.name] = load_predictor(release, self._house.settings)
        return self._loaded[protocol.name]

    def _agreed(self, protocol: TriageProtocol) -> tuple[str, str, str]:
        from models.registry import model_name

        model = model_name(protocol)
        with self._house.database.read() as connection:
            ours = alias_rows.current_alias(connection, model, "champion")
        if ours is None:
            raise HaltPipeline(f"{model} has no champion; train a release and run `secondread models promote`")
        theirs = self._house.registry.resolve(model, "champion")
        if (theirs.version, theirs.digest) != (ours.version, ours.release_digest):
            raise HaltPipeline(
                f"{model}: the registry's champion is version {theirs.version} and our history says {ours.version}; "
                "run `secondread models promote` for the one that shall decide"
            )
        return ours.release_digest, ours.version, model


def load_predictor(release: Any, settings: Settings) -> Any:
    """The predictor of a verified release on the device and the engine that the settings ask for."""
    from models.predictor import ReleasePredictor
    from models.sampling import Ensemble

    return ReleasePredictor(release, Ensemble.load(release, torch_device(settings.device), engine_search(settings)))


def engine_search(settings: Settings) -> Any:
    """What may run the networks: everything installed, chosen by a remembered measurement, or None for plain PyTorch."""
    from models.backend_choice import Search

    return None if settings.engine == "torch" else Search(memory=settings.engine_memory)


def torch_device(wanted: str) -> str:
    """The torch device of a setting: `auto` is CUDA where there is one. Raises HaltPipeline when CUDA is absent."""
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise HaltPipeline("SECONDREAD_DEVICE=cuda but no CUDA device is present; set it to auto or cpu")
    return "cuda"
