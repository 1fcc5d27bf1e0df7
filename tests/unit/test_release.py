from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from models.release import Release, ReleaseBody, write_release
from models.release_files import write_manifest
from pipeline.domain.certificate import Certificate, certify
from pipeline.domain.novelty import NoveltyReference
from pipeline.errors import HaltPipeline
from tests.slice_protocol import slice_protocol

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@cache
def body(seed: int = 0) -> ReleaseBody:
    protocol = slice_protocol()
    generator = torch.Generator().manual_seed(seed)
    members = tuple(save({"w": torch.randn(3, 2, generator=generator)}) for _ in range(protocol.network.members))
    features = np.random.default_rng(seed).normal(size=(40, 4))
    return ReleaseBody(
        protocol=protocol,
        members=members,
        novelty=NoveltyReference.fit({"histogram": features[:30]}, {"histogram": features[30:]}),
        temperature=0.75,
        mutual_information_limit=0.125,
        data={"train": "aa", "tune": "bb", "certify": "cc"},
    )


def certificates(made_for: ReleaseBody) -> dict[str, Certificate]:
    scores = np.linspace(0.0, 1.0, 200)
    positive = scores > 0.4
    return {
        side: certify(
            scores,
            positive,
            scores,
            positive,
            [f"certify-{i}" for i in range(200)],
            tune_patients=[f"tune-{i}" for i in range(200)],
            alpha=0.05,
            delta=0.05,
            side=side,
            made_on=NOW.date(),
            expires_on=date(2027, 11, 23),
            dependencies=made_for.dependencies,
        )
        for side in ("routine", "priority")
    }


def written(folder: Path) -> Release:
    content = body()
    return write_release(folder, content, certificates(content), created_at=NOW, metrics={"tune_nll": 0.5})


def test_a_release_comes_back_as_it_was_written(tmp_path: Path) -> None:
    release = written(tmp_path / "r")
    loaded = Release.load(tmp_path / "r", release.digest)
    assert loaded.digest == release.digest
    assert loaded.protocol == slice_protocol()
    assert loaded.temperature == 0.75
    assert loaded.certificates == certificates(body())
    assert loaded.certificates["routine"].certified
    assert loaded.meta["metrics"] == {"tune_nll": 0.5}
    assert loaded.meta["created_at"] == "2026-11-23T08:00:00+00:00"
    kept, fitted = loaded.novelty.to_arrays(), body().novelty.to_arrays()
    assert all(np.array_equal(kept[name], fitted[name]) for name in fitted)


def test_the_policy_is_the_one_the_certificates_grant(tmp_path: Path) -> None:
    release = written(tmp_path / "r")
    routine, priority = release.certificates["routine"], release.certificates["priority"]
    assert release.policy.release_digest == release.digest
    assert release.policy.protocol_digest == release.protocol.digest
    assert (release.policy.members, release.policy.passes) == (3, 20)
    assert release.policy.routine_below == routine.threshold
    assert release.policy.priority_above == priority.threshold
    assert release.policy.mutual_information_limit == 0.125
    assert release.policy.certificate_expires == date(2027, 11, 23)


def test_a_side_that_is_not_certified_has_no_threshold(tmp_path: Path) -> None:
    content = body()
    few = certify(
        [0.1, 0.9],
        [False, True],
        [0.2, 0.8],
        [False, True],
        ["a", "b"],
        tune_patients=["c", "d"],
        alpha=0.05,
        delta=0.05,
        side="routine",
        made_on=NOW.date(),
        expires_on=NOW.date(),
        dependencies=content.dependencies,
    )
    release = write_release(tmp_path / "r", content, certificates(content) | {"routine": few}, created_at=NOW)
    assert release.policy.routine_below is None
    assert release.policy.priority_above is not None
    assert release.policy.certificate_expires == NOW.date()


def test_equal_content_gives_one_digest(tmp_path: Path) -> None:
    assert written(tmp_path / "one").digest == written(tmp_path / "other").digest


def test_the_weights_come_back(tmp_path: Path) -> None:
    release = written(tmp_path / "r")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(release.weights(0)["w"], torch.randn(3, 2, generator=generator))


def test_weights_changed_after_loading_are_refused_when_read(tmp_path: Path) -> None:
    release = written(tmp_path / "r")
    release.members[1].write_bytes(save({"w": torch.zeros(3, 2)}))
    with pytest.raises(HaltPipeline, match=r"members/01\.safetensors was changed"):
        release.weights(1)


FILES = (
    "release.json",
    "certificate-routine.json",
    "certificate-priority.json",
    "novelty.safetensors",
    "members/00.safetensors",
    "members/02.safetensors",
)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "r").folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(HaltPipeline, match=f"release r: {name} was changed after it was written; download"):
        Release.load(tmp_path / "r")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    (written(tmp_path / "r").folder / name).unlink()
    with pytest.raises(HaltPipeline, match=f"{name} is missing"):
        Release.load(tmp_path / "r")


@pytest.mark.parametrize("name", ["notes.txt", "members/07.safetensors", "members/deep/x.json", ".hidden"])
def test_an_extra_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "r").folder
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"{}")
    with pytest.raises(HaltPipeline, match=r"may not stand in a release|is not in its manifest"):
        Release.load(folder)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.marker)!r}, 'w')",))


@pytest.mark.parametrize(
    "name",
    ["weights.pt", "model.pkl", "net.pth", "net.ckpt", "x.joblib", "MLmodel", "python_model.pkl", "members/00.pt"],
)
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "r").folder
    (folder / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "marker")))
    write_manifest(folder)  # even a manifest that names it does not help
    with pytest.raises(HaltPipeline, match="JSON and safetensors only"):
        Release.load(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["members/01.safetensors", "novelty.safetensors"])
def test_a_pickle_renamed_to_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "r").folder
    (folder / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "marker")))
    write_manifest(folder)
    with pytest.raises(HaltPipeline, match=f"{name} is not a safetensors file"):
        Release.load(folder)
    assert not (tmp_path / "marker").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    outside = tmp_path / "outside"
    (folder / "members/00.safetensors").rename(outside)
    (folder / "members/00.safetensors").symlink_to(outside)
    with pytest.raises(HaltPipeline, match=r"members/00\.safetensors is missing"):
        Release.load(folder)


def test_another_digest_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    with pytest.raises(HaltPipeline, match="and not 000000000000 as registered"):
        Release.load(folder, "0" * 64)


def test_a_folder_that_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HaltPipeline, match=r"manifest\.json is missing; give the folder of a release"):
        Release.load(tmp_path)


def test_a_manifest_that_is_not_canonical_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=2))
    with pytest.raises(HaltPipeline, match=r"manifest\.json is not in the format"):
        Release.load(folder)


def _edit(folder: Path, name: str, change: Callable[[dict[str, object]], None]) -> None:
    """Change a JSON file and sign the result, as someone with write access could."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(temperature=0.5), "certificate was not made for its temperature"),
        (lambda c: c.update(mutual_information_limit=9.0), "certificate was not made for its mutual information limit"),
        (lambda c: c["data"].update(certify="dd"), "certificate was not made for its certify"),
        (lambda c: c["protocol"]["network"].update(passes=2), "its protocol does not have the digest it names"),
        (lambda c: c["policy"].update(routine_below=0.99), "its policy is not the one its certificates grant"),
        (lambda c: c.pop("temperature"), r"release\.json cannot be read \(KeyError\)"),
        (lambda c: c["protocol"].pop("question"), r"release\.json cannot be read \(ValidationError\)"),
    ],
)
def test_a_part_that_the_certificates_were_not_made_for_is_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], None], problem: str
) -> None:
    folder = written(tmp_path / "r").folder
    _edit(folder, "release.json", change)
    with pytest.raises(HaltPipeline, match=problem):
        Release.load(folder)


def test_another_number_of_passes_voids_the_certificate_even_with_its_digest_mended(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    protocol = slice_protocol()
    swapped = protocol.model_copy(update={"network": protocol.network.model_copy(update={"passes": 2})})

    def change(content: dict[str, object]) -> None:
        content.update(protocol=swapped.model_dump(mode="json"), protocol_digest=swapped.digest)

    _edit(folder, "release.json", change)
    with pytest.raises(HaltPipeline, match="certificate was not made for its protocol"):
        Release.load(folder)


def test_old_weights_beside_new_ones_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    (folder / "members/01.safetensors").write_bytes(body(seed=1).members[1])
    write_manifest(folder)
    with pytest.raises(HaltPipeline, match="certificate was not made for its members"):
        Release.load(folder)


def test_certificates_of_swapped_sides_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    routine, priority = (folder / f"certificate-{side}.json" for side in ("routine", "priority"))
    first, second = routine.read_bytes(), priority.read_bytes()
    routine.write_bytes(second)
    priority.write_bytes(first)
    write_manifest(folder)
    with pytest.raises(HaltPipeline, match="the certificate of the routine side is for the priority side"):
        Release.load(folder)


def test_a_certificate_with_better_counts_than_it_had_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r").folder
    _edit(folder, "certificate-routine.json", lambda c: c.update(threshold=0.99))
    with pytest.raises(HaltPipeline, match="threshold does not follow from its rungs"):
        Release.load(folder)


def test_fewer_members_than_the_protocol_asks_for_are_refused(tmp_path: Path) -> None:
    content = body()
    short = replace(content, members=content.members[:2])
    with pytest.raises(HaltPipeline, match="it has 2 members and its protocol asks for 3"):
        write_release(tmp_path / "r", short, certificates(short), created_at=NOW)
    assert list(tmp_path.iterdir()) == []


def test_two_equal_members_are_refused(tmp_path: Path) -> None:
    content = body()
    twins = replace(content, members=(content.members[0], content.members[0], content.members[1]))
    with pytest.raises(HaltPipeline, match="two members have the same weights"):
        write_release(tmp_path / "r", twins, certificates(twins), created_at=NOW)


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "r")
    with pytest.raises(HaltPipeline, match="exists already"):
        written(tmp_path / "r")


def test_reading_a_release_needs_no_torch() -> None:
    code = "import sys, models.release; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
