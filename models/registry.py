"""The registry of releases and training runs: the only file that speaks MLflow.

Why nothing here loads a model: MLflow's own loaders execute code found in the artefact. The registry keeps metadata and
bytes; what comes back is verified against the digest written at registration and opened by `models.release` alone. No
parameter, tag or artefact written here holds a path, a user name or patient data.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from models.release import Release
from models.training_record import EpochRecord
from pipeline.errors import HaltPipeline, RetryLater
from pipeline.protocol import TriageProtocol

ALIASES = ("champion", "challenger", "shadow")
_BUNDLE = "release"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}

_UNSAFE = re.compile(r"[^0-9A-Za-z_-]")  #: what the name of a split may not bring into the name of an artefact


def model_name(protocol: TriageProtocol) -> str:
    """The name under which releases of `protocol` are registered."""
    return f"secondread-{protocol.name}"


@dataclass(frozen=True, kw_only=True)
class RegisteredRelease:
    """One version in the registry; `digest` is the release digest written at registration."""

    model: str
    version: str
    digest: str
    protocol_digest: str
    run_id: str
    created_at: datetime
    aliases: tuple[str, ...]


class Registry:
    """Training runs and release versions in the MLflow store at `uri`; verified releases are kept in `cache`.

    For a store without a server of its own (SQLite), artefacts lie under `artifacts` (default: beside the cache).
    Raises RetryLater when the store is away and HaltPipeline when it refuses.
    """

    def __init__(self, uri: str, cache: Path, *, artifacts: Path | None = None) -> None:
        self.uri = uri
        self.cache = cache
        self.artifacts = artifacts if artifacts is not None else cache.parent / "mlflow-artifacts"

    def log_training(
        self,
        protocol: TriageProtocol,
        histories: Sequence[Sequence[EpochRecord]],
        *,
        metrics: Mapping[str, float],
        data: Mapping[str, str],
        plots: Sequence[Path] = (),
    ) -> str:
        """Write one training run and return its id: parameters, epochs, learning curves, data digests and `plots`."""
        with self._speaking():
            run = self._client.create_run(self._experiment(model_name(protocol))).info.run_id
            for name, value in _parameters(protocol).items():
                self._client.log_param(run, name, value)
            for split, digest in data.items():
                self._client.set_tag(run, f"data.{split}", digest)
            self._client.set_tag(run, "protocol_digest", protocol.digest)
            self._log_histories(run, histories)
            for name, number in metrics.items():
                self._client.log_metric(run, name, float(number))
            for plot in plots:
                self._client.log_artifact(run, str(plot), "plots")
            if histories:
                self._log_learning_curves(run, histories)
            self._client.set_terminated(run)
            return str(run)

    def register(self, release: Release, *, run_id: str | None = None) -> str:
        """Upload the release as the next version of its model, make it the challenger and return the version.

        The folder is verified again before a byte leaves it. Without `run_id` a run is made to hold it.
        """
        verified = Release.load(release.folder, release.digest)
        name = model_name(verified.protocol)
        tags = {"release_digest": verified.digest, "protocol_digest": verified.protocol.digest}
        with self._speaking():
            run = run_id or self._client.create_run(self._experiment(name)).info.run_id
            self._client.log_artifacts(run, str(verified.folder), _BUNDLE)
            source = f"{self._client.get_run(run).info.artifact_uri}/{_BUNDLE}"
            self._ensure_model(name)
            made = self._client.create_model_version(name, source=source, run_id=run, tags=tags)
            self._client.set_terminated(run)
        self.set_alias(name, "challenger", str(made.version))
        return str(made.version)

    def log_evaluation(self, release: Release, folder: Path, numbers: Mapping[str, float], *, split: str) -> bool:
        """Put the files of `folder` and `numbers` beside a registered release; False where it is not registered.

        The caller sees to it that neither holds an image or a name of a patient's file.
        """
        model = model_name(release.protocol)
        with self._speaking():
            known = {m.name for m in self._pages("search_registered_models")}
            versions = self._versions(model) if model in known else ()
            held = next((v for v in versions if v.digest == release.digest), None)
            if held is None:
                return False
            plain = _UNSAFE.sub("_", split)
            self._client.log_artifacts(held.run_id, str(folder), f"evaluation/{plain}")
            for name, number in numbers.items():
                self._client.log_metric(held.run_id, f"evaluation.{plain}.{name}", float(number))
        return True

    def resolve(self, model: str, alias_or_version: str) -> RegisteredRelease:
        """The version that an alias points to now, or that version itself; raises HaltPipeline when there is none."""
        found = self._find(model, alias_or_version)
        if found is None:
            raise HaltPipeline(
                f"{model}: no version or alias '{alias_or_version}'; see `secondread models list`, or train a release"
            )
        return found

    def download(self, model: str, alias_or_version: str) -> Release:
        """The verified release of a version, from the cache or from the store; raises HaltPipeline when it differs."""
        registered = self.resolve(model, alias_or_version)
        if not _DIGEST.fullmatch(registered.digest):
            raise HaltPipeline(f"{model}: version {registered.version} names no release digest; register it again")
        kept = self.cache / registered.digest
        if kept.exists():
            try:
                return Release.load(kept, registered.digest)
            except HaltPipeline:
                shutil.rmtree(kept)  # a damaged copy; the store has the original
        return self._fetch(registered, kept)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point `alias` (champion, challenger or shadow) to `version`; raises HaltPipeline when either is unknown."""
        if alias not in ALIASES:
            raise HaltPipeline(f"no alias '{alias}': use one of {', '.join(ALIASES)}")
        self.resolve(model, version)
        with self._speaking():
            self._client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Take `alias` away from `model`; nothing happens when it was not set."""
        with self._speaking():
            self._client.delete_registered_model_alias(model, alias)

    def list(self, model: str | None = None) -> tuple[RegisteredRelease, ...]:
        """Every version of `model`, or of every model, newest first within each model."""
        with self._speaking():
            names = [model] if model else sorted(m.name for m in self._pages("search_registered_models"))
            found = [v for name in names for v in self._versions(name)]
        return tuple(sorted(found, key=lambda v: (v.model, -int(v.version))))

    @cached_property
    def _client(self) -> Any:
        for name, value in _ENVIRONMENT.items():
            os.environ[name] = value
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 - heavy, and wanted only where a store is spoken to

        logging.getLogger("alembic").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            _ = self._client
            yield
        except (HaltPipeline, RetryLater, ImportError):
            raise
        except Exception as error:
            raise _translated(error) from error

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        place = None if self.uri.startswith("http") else (self.artifacts.resolve() / name).as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))

    def _log_histories(self, run: str, histories: Sequence[Sequence[EpochRecord]]) -> None:
        for member, history in enumerate(histories):
            for record in history:
                values = {
                    "train_nll": record.train_nll,
                    "tune_nll": record.tune_nll,
                    "tune_accuracy": record.tune_accuracy,
                }
                for name, value in values.items():
                    self._client.log_metric(run, f"member{member:02d}.{name}", value, step=record.epoch)

    def _log_learning_curves(self, run: str, histories: Sequence[Sequence[EpochRecord]]) -> None:
        from models.plots import training_plot  # noqa: PLC0415 - matplotlib is heavy, see `Registry._client`

        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "learning_curves.png"
            training_plot(picture, histories)
            self._client.log_artifact(run, str(picture), "plots")

    def _ensure_model(self, name: str) -> None:
        if name not in {m.name for m in self._pages("search_registered_models")}:
            self._client.create_registered_model(name)

    def _pages(self, method: str, **arguments: Any) -> Iterator[Any]:
        token = None
        while True:
            page = getattr(self._client, method)(page_token=token, **arguments)
            yield from page
            token = page.token
            if not token:
                return

    def _versions(self, name: str) -> Iterator[RegisteredRelease]:
        aliases = self._aliases(name)
        for found in self._pages("search_model_versions", filter_string=f"name = '{name}'"):
            yield _registered(found, aliases)

    def _aliases(self, name: str) -> dict[str, str]:
        models = [m for m in self._pages("search_registered_models") if m.name == name]
        return {alias: str(version) for m in models for alias, version in m.aliases.items()}

    def _find(self, model: str, alias_or_version: str) -> RegisteredRelease | None:
        with self._speaking():
            version = self._aliases(model).get(alias_or_version, alias_or_version)
            return next((v for v in self._versions(model) if v.version == version), None)

    def _fetch(self, registered: RegisteredRelease, kept: Path) -> Release:
        self.cache.mkdir(parents=True, exist_ok=True)
        draft = self.cache / f".{uuid.uuid4().hex}"
        draft.mkdir()
        try:
            with self._speaking():
                source = self._client.get_model_version_download_uri(registered.model, registered.version)
                fetched = Path(_download(source, draft, self.uri))
            Release.load(fetched, registered.digest)
            if not kept.exists():
                fetched.replace(kept)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return Release.load(kept, registered.digest)


def _download(source: str, folder: Path, uri: str) -> str:
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - see `Registry._client`

    return str(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=uri))


def _registered(found: Any, aliases: Mapping[str, str]) -> RegisteredRelease:
    return RegisteredRelease(
        model=str(found.name),
        version=str(found.version),
        digest=str(found.tags.get("release_digest", "")),
        protocol_digest=str(found.tags.get("protocol_digest", "")),
        run_id=str(found.run_id),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, tz=UTC),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == str(found.version))),
    )


def _parameters(protocol: TriageProtocol) -> dict[str, str]:
    sections = ("preprocessing", "network", "training", "limits")
    content = protocol.model_dump(mode="json", include=set(sections))
    flat = {f"{s}.{key}": str(value) for s in sections for key, value in content[s].items()}
    return flat | {"protocol": protocol.name, "protocol_version": str(protocol.version)}


def _translated(error: Exception) -> HaltPipeline | RetryLater:
    code = str(getattr(error, "error_code", type(error).__name__))
    if isinstance(error, OSError) or code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"}:
        return RetryLater(f"the model registry does not answer ({code}); try again, or check SECONDREAD_MLFLOW_URI")
    return HaltPipeline(f"the model registry refused ({code}); check SECONDREAD_MLFLOW_URI with `secondread doctor`")
