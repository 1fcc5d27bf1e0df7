"""A house with a few phantom patients and a release of tiny untrained networks: everything real but the quality."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.dicom.phantoms import (
    PhantomPlan,
    PhantomStudy,
    SplitPlan,
    StreamEntry,
    generate_phantoms,
    write_labels_csv,
)
from pipeline.protocol import TriageProtocol, load_protocol
from pipeline.settings import Settings

SPLITS = ("train", "tune", "certify", "test")


def tiny_protocol_file(folder: Path, **network: Any) -> Path:
    """The shipped MR protocol with networks of a few hundred weights, as a YAML file."""
    content = load_protocol("brain-tumour-mr").model_dump(mode="json")
    blocks = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [2, 4, 4, 8]}
    small = {"arguments": blocks | {"conv1_t_size": 3, "conv1_t_stride": 2}, "members": 2, "passes": 4}
    content["network"] |= small | network
    content["preprocessing"] |= {"size": [12, 32, 32], "spacing_mm": [12.0, 6.4, 6.4]}
    content["training"] |= {"epochs": 4, "batch_size": 4}
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


def register_untrained_release(house: Any, labels: Path) -> str:
    """Certify and register a release of randomly initialised networks; returns its version."""
    from flows.promotion_flow import record_move
    from flows.readers import read_dicom
    from models.dataset import read_labels
    from models.fitting import FITTED_SPLITS, fit_release
    from models.preparation import prepare_images
    from models.registry import model_name

    protocol = next(iter(house.protocols.values()))
    images = prepare_images(read_labels(labels, protocol), protocol, FITTED_SPLITS, read_dicom)
    members = [_untrained(protocol, seed) for seed in range(protocol.network.members)]
    made = datetime.now(UTC)
    release = fit_release(protocol, members, images, folder=house.settings.home / "untrained", created_at=made)
    version = house.registry.register(release)
    found = house.registry.resolve(model_name(protocol), version)
    record_move(house, found, alias="challenger", digest=release.digest, actor="test", reason="untrained", at=made)
    return str(version)


def _untrained(protocol: TriageProtocol, seed: int) -> Any:
    from models.networks import build_network
    from models.train import TrainedMember

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights: Mapping[str, torch.Tensor] = build_network(protocol).state_dict()
    return TrainedMember(member=seed, seed=seed, weights=dict(weights), history=(), best_epoch=0)
