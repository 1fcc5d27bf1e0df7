"""De-identification in the limited child: what comes out is what the code gives, and nothing that comes in hurts us."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from pipeline.dicom.deidentify import DeidentificationProfile, deidentified_instance
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.sandbox_process import ChildProcess
from pipeline.errors import RejectInstance, RetryLater
from tests.bombs import MIB, deflated_elements, deflated_zeros
from tests.dicom_files import a_head, a_slice, small_slice, to_bytes
from tests.faults.test_bombs import forget_peak, peak_bytes

KEY = b"a key of the house"
SCREENSHOT = to_bytes(a_slice(a_head(1)[0], SOPClassUID=SecondaryCaptureImageStorage, Modality="OT"))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "sound.dcm"
    path.write_bytes(small_slice(1))
    return path


@pytest.mark.parametrize("columns", [40, 41, 42, 43])
def test_the_child_gives_exactly_what_the_same_code_gives_in_process(sandbox, tmp_path, columns) -> None:
    path = tmp_path / "image.dcm"
    for more in (200, 0):  # a longer answer first, whose rest lies in the shared memory
        path.write_bytes(to_bytes(a_slice(np.arange(9 * (columns + more), dtype=np.uint8).reshape(9, -1))))
        expected = deidentified_instance(path.read_bytes(), key=KEY)
        assert sandbox.deidentify(path, key=KEY) == expected


@pytest.mark.parametrize("name", ["zeros", "elements"])
def test_a_bomb_is_refused_the_parent_stays_small_and_the_next_image_comes(tmp_path, image, name) -> None:
    (tmp_path / "bomb.dcm").write_bytes({"zeros": deflated_zeros, "elements": deflated_elements}[name]())
    with Sandbox(memory_mb=512, seconds=3.0) as small:
        forget_peak()
        before = peak_bytes()
        with pytest.raises(RejectInstance) as caught:
            small.deidentify(tmp_path / "bomb.dcm", key=KEY)
        assert peak_bytes() - before <= 16 * MIB
        assert caught.value.reason in {"resource_limit", "too_large"}
        assert small.deidentify(image, key=KEY) == deidentified_instance(image.read_bytes(), key=KEY)


def test_an_image_too_large_for_the_child_is_a_resource_limit(tmp_path, image) -> None:
    large = tmp_path / "large.dcm"
    large.write_bytes(to_bytes(a_slice(np.arange(100_000_000, dtype=np.uint16).reshape(10000, 10000))))
    with Sandbox(memory_mb=256) as small:
        with pytest.raises(RejectInstance) as caught:
            small.deidentify(large, key=KEY)
        assert caught.value.reason == "resource_limit"
        assert small.deidentify(image, key=KEY).patient


def test_a_killed_child_is_replaced_and_a_stopped_one_ended_at_the_clock(image) -> None:
    with Sandbox(seconds=1.0) as sandbox:
        sandbox.deidentify(image, key=KEY)
        os.kill(sandbox._child.pid, signal.SIGKILL)
        assert sandbox.deidentify(image, key=KEY).patient
        stopped = sandbox._child.pid
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(RejectInstance) as caught:
            sandbox.deidentify(image, key=KEY)
        assert caught.value.reason == "resource_limit"
        assert not Path(f"/proc/{stopped}").exists()
        assert sandbox.deidentify(image, key=KEY).patient


class LyingChild(ChildProcess):
    """A child that says another size than it was granted."""

    changes: dict[str, Any]

    def call(self, request, deadline, on_room=None):
        found = super().call(request, deadline, on_room) | self.changes
        return {name: value for name, value in found.items() if value != "absent"}


@pytest.mark.parametrize(
    "changes",
    [{"size": 0}, {"size": -8}, {"size": 4}, {"size": 10**9}, {"size": 8.5}, {"size": "absent"}, {"patient": "absent"}],
)
def test_what_was_not_granted_is_never_taken(image, monkeypatch, changes) -> None:
    monkeypatch.setattr(LyingChild, "changes", changes, raising=False)
    monkeypatch.setattr("pipeline.dicom.sandbox.ChildProcess", LyingChild)
    with Sandbox() as sandbox:
        with pytest.raises(RejectInstance) as caught:
            sandbox.deidentify(image, key=KEY)
        assert sandbox._child is None
    assert caught.value.reason == "resource_limit"


class EmptyHandedChild(ChildProcess):
    """A child that asks for no room and says that its answer is empty."""

    def call(self, request, deadline, on_room=None):
        names = ("patient", "study_instance_uid", "series_instance_uid", "sop_instance_uid")
        super().call(request | {"call": "inspect"}, deadline, on_room)
        return {"size": 0} | dict.fromkeys(names, "1")


def test_an_empty_answer_is_none(image, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.dicom.sandbox.ChildProcess", EmptyHandedChild)
    with Sandbox() as sandbox, pytest.raises(RejectInstance) as caught:
        sandbox.deidentify(image, key=KEY)
    assert caught.value.reason == "resource_limit"


def test_refusals_keep_their_reason_and_absent_files_ask_to_try_again(sandbox, tmp_path) -> None:
    (tmp_path / "note.dcm").write_text("no image")
    (tmp_path / "shot.dcm").write_bytes(SCREENSHOT)
    for name, reason in (("note.dcm", "not_dicom"), ("shot.dcm", "burned_in_annotation")):
        with pytest.raises(RejectInstance) as caught:
            sandbox.deidentify(tmp_path / name, key=KEY)
        assert caught.value.reason == reason
    with pytest.raises(RetryLater):
        sandbox.deidentify(tmp_path / "absent.dcm", key=KEY)
    with pytest.raises(ValueError, match="key"):
        sandbox.deidentify(tmp_path / "shot.dcm", key=b"")


def test_the_profile_reaches_the_child(sandbox, image) -> None:
    basic = DeidentificationProfile(modified_dates=False, patient_characteristics=False)

    found = sandbox.deidentify(image, key=KEY, profile=basic)

    assert found == deidentified_instance(image.read_bytes(), key=KEY, profile=basic)
    assert found.data != sandbox.deidentify(image, key=KEY).data
