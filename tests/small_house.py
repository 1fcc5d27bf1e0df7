"""A house with a few phantom patients and a release of tiny networks that know six images: all real but the quality."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pipeline.dicom.phantoms import (
    PhantomPlan,
    PhantomStudy,
    SplitPlan,
    StreamEntry,
    generate_phantoms,
    write_labels_csv,
)
from pipeline.protocol import load_protocol
from pipeline.settings import Settings

SPLITS = ("train", "tune", "certify", "test")


def tiny_protocol_file(folder: Path, **network: Any) -> Path:
    """The shipped MR protocol with networks of a thousand weights, as a YAML file."""
    content = load_protocol("brain-tumour-mr").model_dump(mode="json")
    blocks = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [2, 4, 4, 8]}
    small = {"arguments": blocks | {"conv1_t_size": 3, "conv1_t_stride": 2}, "members": 2, "passes": 4}
    content["network"] |= small | network
    content["preprocessing"] |= {"size": [12, 32, 32], "spacing_mm": [12.0, 6.4, 6.4]}
    content["training"] |= {"epochs": 12, "batch_size": 4, "learning_rate": 0.02, "augment": False}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


def few_patients(stream: tuple[StreamEntry, ...]) -> PhantomPlan:
    """Four or six patients in each split, and this stream."""
    sizes = {"train": 2, "tune": 3, "certify": 3, "test": 3}
    splits = (SplitPlan(name=name, finding=count, no_finding=count) for name, count in sizes.items())
    return PhantomPlan(splits=tuple(splits), stream=stream)


def write_phantoms(folder: Path, stream: tuple[StreamEntry, ...], seed: int = 3) -> list[PhantomStudy]:
    """Phantoms under `folder` with their labels.csv."""
    studies = generate_phantoms(folder, few_patients(stream), seed)
    write_labels_csv(studies, folder / "labels.csv")
    return studies


def settings_of(base: Path, **changes: Any) -> Settings:
    """Settings of the house in `base`/home with the tiny protocol of `base`."""
    return Settings(home=base / "home", protocols=str(base / "tiny.yaml"), **changes)


def environment_of(base: Path, **changes: str) -> dict[str, str]:
    """The environment of a command that works in the house of `base`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECONDREAD_"))}
    named = {"SECONDREAD_HOME": str(base / "home"), "SECONDREAD_PROTOCOLS": str(base / "tiny.yaml")}
    return kept | named | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"} | changes


def register_small_release(house: Any, labels: Path) -> str:
    """Certify and register a release of networks that learnt the tune split by heart; returns its version."""
    from flows.promotion_flow import record_move
    from flows.readers import read_dicom
    from models.dataset import read_labels
    from models.fitting import FITTED_SPLITS, fit_release
    from models.preparation import prepare_images, training_tensors
    from models.registry import model_name
    from models.train import train_member

    protocol = next(iter(house.protocols.values()))
    images = prepare_images(read_labels(labels, protocol), protocol, FITTED_SPLITS, read_dicom)
    known = training_tensors(images["tune"])
    members = [train_member(protocol, *known, *known, member=m, seed=1) for m in range(protocol.network.members)]
    made = datetime.now(UTC)
    release = fit_release(
        protocol, members, images, folder=house.settings.home / f"draft-{made:%H%M%S%f}", created_at=made
    )
    version = house.registry.register(release)
    found = house.registry.resolve(model_name(protocol), version)
    record_move(house, found, alias="challenger", digest=release.digest, actor="test", reason="small", at=made)
    return str(version)
