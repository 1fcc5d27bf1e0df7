"""The training flow: prepare the images, train each member as a task, fit and certify the release, register it.

Nothing here decides what is good enough: the release becomes the challenger, and promotion is a step of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Task, flow
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.bootstrap import House
from flows.champion import engine_search, torch_device
from flows.member_training import member_trainer, save_arrays
from flows.promotion_flow import record_move
from flows.readers import read_dicom
from flows.workplace import OnProgress, Workplace, at_work, handed, silent
from models.dataset import read_labels
from models.fitting import FITTED_SPLITS, fit_release
from models.preparation import PreparedImage, prepare_images, training_tensors
from models.registry import model_name
from models.release import Release
from models.train import TrainedMember
from models.training_record import EpochRecord
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

Images = Mapping[str, Sequence[PreparedImage]]
DEFAULT_SEED = 7
WORKERS = os.cpu_count() or 1
_SIDE_BY_SIDE: Any = ThreadPoolTaskRunner(max_workers=WORKERS)  #: each thread waits for a process of its own


def run_training(
    house: House,
    protocol: str,
    labels: Path,
    *,
    seed: int = DEFAULT_SEED,
    actor: str = "training",
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Run the training flow on an open house and return its summary; a labels file that cannot be used is told at once."""
    read_labels(labels, house.protocol(protocol), needed=FITTED_SPLITS)
    with handed(house, on_progress):
        return training_flow(protocol=protocol, labels=str(labels), seed=seed, actor=actor)


@flow(name="training", task_runner=_SIDE_BY_SIDE)
def training_flow(protocol: str, labels: str, seed: int = DEFAULT_SEED, actor: str = "training") -> dict[str, Any]:
    """Train, calibrate, certify and register a release of `protocol` on the images that `labels` lists."""
    with at_work() as place:
        return _train(place, protocol=protocol, labels=Path(labels), seed=seed, actor=actor)


def _train(place: Workplace, *, protocol: str, labels: Path, seed: int, actor: str) -> dict[str, Any]:
    house, on_progress = place.house, place.on_progress
    chosen = house.protocol(protocol)
    labelled = read_labels(labels, chosen, needed=FITTED_SPLITS)
    device = torch_device(house.settings.device)

    def stage(name: str, done: int, total: int) -> None:
        on_progress(name, done, total, "")

    images = prepare_images(labelled, chosen, FITTED_SPLITS, read_dicom, on_progress=stage)
    with tempfile.TemporaryDirectory(prefix="training-", dir=house.settings.home) as scratch:
        members = _train_members(chosen, images, Path(scratch), seed=seed, device=device, on_progress=on_progress)
        release = fit_release(
            chosen,
            members,
            images,
            folder=Path(scratch) / "release",
            created_at=datetime.now(UTC),
            device=device,
            search=engine_search(house.settings),
            on_progress=stage,
        )
        version = _register(house, chosen, release, members, actor=actor)
    summary = _summary(chosen, release, version)
    create_markdown_artifact(_report(summary), key="training-report", description="One trained and certified release")
    return summary


def _train_members(
    protocol: TriageProtocol, images: Images, scratch: Path, *, seed: int, device: str, on_progress: OnProgress
) -> list[TrainedMember]:
    data, count = scratch / "arrays.safetensors", protocol.network.members
    save_arrays(data, training_tensors(images["train"]), training_tensors(images["tune"]))
    workers = min(count, WORKERS)

    def on_epoch(member: int, record: EpochRecord) -> None:
        note = f"tune NLL {record.tune_nll:.3f}"
        on_progress(f"train member {member + 1}/{count}", record.epoch + 1, protocol.training.epochs, note)

    with member_trainer(protocol, data, seed=seed, device=device, workers=workers, on_epoch=on_epoch) as trainer:
        train_one = Task(fn=trainer.train, name="train-member", cache_policy=NO_CACHE, persist_result=False)
        members = [future.result() for future in train_one.map(range(count))]
    for member in members:
        note = f"best epoch {member.best_epoch + 1}"
        on_progress(
            f"train member {member.member + 1}/{count}", protocol.training.epochs, protocol.training.epochs, note
        )
    return members


def _register(
    house: House, protocol: TriageProtocol, release: Release, members: Sequence[TrainedMember], *, actor: str
) -> str:
    run_id = house.registry.log_training(
        protocol, [member.history for member in members], metrics=release.meta["metrics"], data=release.meta["data"]
    )
    version = house.registry.register(release, run_id=run_id)
    found = house.registry.resolve(model_name(protocol), version)
    if found.digest != release.digest:
        raise HaltPipeline("the registry does not hold the release that was trained; train it again")
    record_move(
        house, found, alias="challenger", digest=release.digest, actor=actor, reason="trained", at=datetime.now(UTC)
    )
    return version


def _summary(protocol: TriageProtocol, release: Release, version: str) -> dict[str, Any]:
    certificates = {
        side: certificate.to_dict() | {"sentence": certificate.sentence()}
        for side, certificate in release.certificates.items()
    }
    return {
        "release": version,
        "model": model_name(protocol),
        "digest": release.digest,
        "certificate": certificates["routine"],
        "certificates": certificates,
        "metrics": dict(release.meta["metrics"]),
    }


def _report(summary: Mapping[str, Any]) -> str:
    sentences = [f"- {certificate['sentence']}" for certificate in summary["certificates"].values()]
    numbers = [f"| {name} | {value:.4f} |" for name, value in summary["metrics"].items()]
    title = f"# {summary['model']} version {summary['release']}"
    return "\n".join([title, "", *sentences, "", "| metric | value |", "|---|---|", *numbers])
