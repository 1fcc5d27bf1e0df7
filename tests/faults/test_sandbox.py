import hashlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.dicom import sandbox_child, sandbox_process
from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.sandbox_process import ChildProcess
from pipeline.dicom.sandbox_wire import BrokenWireError
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase, HaltPipeline, RetryLater
from tests.dicom_files import STUDY, a_head, a_slice, to_bytes, write_series

HEAD = a_head(6)


@pytest.fixture
def sandbox():
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def series(tmp_path):
    paths = write_series(tmp_path, [a_slice(page, place) for place, page in enumerate(HEAD)])
    return paths, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def refusal_of(sandbox, path):
    with pytest.raises(RefusedInstance) as caught:
        sandbox.inspect(path)
    return caught.value


def test_the_child_says_exactly_what_the_same_code_says_in_process(sandbox, series):
    paths, digests = series
    assert sandbox.inspect(paths[2]) == inspect_instance(paths[2].read_bytes())
    here, there = read_series_in_process(paths, digests), sandbox.read_series(paths, digests)
    assert np.array_equal(here.voxels, there.voxels)
    assert np.array_equal(here.affine, there.affine)
    assert (here.sources, here.quality) == (there.sources, there.quality)


def test_a_refusal_comes_with_reason_header_and_kind(sandbox, tmp_path):
    path = tmp_path / "blank.dcm"
    path.write_bytes(to_bytes(a_slice(np.zeros((8, 8), dtype=np.uint16))))
    refusal = refusal_of(sandbox, path)
    assert (refusal.reason, refusal.is_image) == ("blank_image", True)
    assert refusal.header is not None
    assert refusal.header.study_instance_uid == "1.2.3.4"


def test_one_child_serves_many_calls_and_volumes_do_not_share_memory(sandbox, series):
    first = sandbox.read_series(*series)
    child = sandbox._child.pid
    kept = first.voxels.copy()
    second = sandbox.read_series(series[0][:3], series[1][:3])
    assert np.array_equal(first.voxels, kept)
    assert second.voxels.shape[0] == 3
    assert sandbox._child.pid == child


def test_the_child_inherits_no_environment_and_no_open_file(sandbox, series, tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDREAD_DATABASE_URL", "postgresql://canary")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        sandbox.inspect(series[0][0])
        process = Path(f"/proc/{sandbox._child.pid}")
        assert b"canary" not in process.joinpath("environ").read_bytes()
        opened = [str(entry.readlink()) for entry in process.joinpath("fd").iterdir()]
    assert not any("open" in name for name in opened)
    assert sorted(name.split(":")[0] for name in opened) == ["/dev/null"] * 3 + ["/memfd", "socket"]


def test_the_child_imports_neither_torch_nor_database_nor_settings(sandbox, series):
    sandbox.inspect(series[0][0])
    mapped = Path(f"/proc/{sandbox._child.pid}/maps").read_text()
    assert not any(name in mapped for name in ("torch", "sqlalchemy", "psycopg", "pydantic_core"))


def test_the_child_has_its_limits(sandbox, series):
    sandbox.inspect(series[0][0])
    limits = Path(f"/proc/{sandbox._child.pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert found["Max address space"] == str(2048 * 2**20)
    assert found["Max file size"] == found["Max core file size"] == "0"
    assert int(found["Max cpu time"]) <= 24


def test_a_child_killed_between_calls_is_replaced_unnoticed(sandbox, series):
    sandbox.inspect(series[0][0])
    os.kill(sandbox._child.pid, signal.SIGKILL)
    assert sandbox.inspect(series[0][1]).instance_number == 2
    os.kill(sandbox._child.pid, signal.SIGKILL)
    assert sandbox.read_series(*series).voxels.shape[0] == 6


class DyingChild(ChildProcess):
    """A child that is killed as soon as it gets work."""

    def call(self, request, deadline, on_room=None):
        os.kill(self.pid, signal.SIGKILL)
        return super().call(request, deadline, on_room)


def test_a_child_that_dies_even_when_fresh_is_a_resource_limit_not_a_crash(series, monkeypatch):
    monkeypatch.setattr("pipeline.dicom.sandbox.ChildProcess", DyingChild)
    with Sandbox() as sandbox:
        assert refusal_of(sandbox, series[0][0]).reason == "resource_limit"
        with pytest.raises(DeferCase) as caught:
            sandbox.read_series(*series)
        assert caught.value.reason == Reason.UNREADABLE
        monkeypatch.undo()
        assert sandbox.inspect(series[0][0]).rows == 40


def test_a_stopped_child_is_ended_at_the_wall_clock_and_the_next_call_works(series):
    with Sandbox(seconds=1.0) as sandbox:
        sandbox.inspect(series[0][0])
        stopped = sandbox._child.pid
        os.kill(stopped, signal.SIGSTOP)
        assert refusal_of(sandbox, series[0][0]).reason == "resource_limit"
        assert not Path(f"/proc/{stopped}").exists()
        assert sandbox.inspect(series[0][0]).rows == 40
        os.kill(sandbox._child.pid, signal.SIGSTOP)
        with pytest.raises(DeferCase) as caught:
            sandbox.read_series(*series)
        assert caught.value.reason == Reason.UNREADABLE


def test_a_bomb_costs_the_child_its_memory_limit_and_the_parent_nothing(tmp_path):
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(to_bytes(a_slice(np.zeros((5000, 6000), dtype=np.uint16)), DeflatedExplicitVRLittleEndian))
    assert bomb.stat().st_size < 100_000
    with Sandbox(memory_mb=256) as sandbox:
        refusal = refusal_of(sandbox, bomb)
        assert refusal.reason in {"resource_limit", "blank_image"}
        sound = tmp_path / "sound.dcm"
        sound.write_bytes(to_bytes(a_slice(HEAD[0])))
        assert sandbox.inspect(sound).rows == 40


def test_a_sound_image_too_large_for_the_child_is_a_resource_limit(tmp_path):
    large = tmp_path / "large.dcm"
    pixels = np.arange(100_000_000, dtype=np.uint16).reshape(10000, 10000)
    large.write_bytes(to_bytes(a_slice(pixels)))
    with Sandbox(memory_mb=256) as sandbox:
        refusal = refusal_of(sandbox, large)
        assert refusal.reason == "resource_limit"
        assert refusal.header.study_instance_uid == STUDY, "its study has a gap"
        assert refusal.is_image
        with pytest.raises(DeferCase):
            sandbox.read_series([large], [hashlib.sha256(large.read_bytes()).hexdigest()])


@pytest.mark.parametrize(
    "error", [StopIteration(), MemoryError(), RecursionError(), KeyError("JANE"), ValueError("JANE")]
)
def test_every_exception_in_the_child_becomes_a_verdict_without_its_text(error):
    verdict = sandbox_child.verdict(error)
    assert list(verdict) in (["exhausted"], ["failed"])
    assert "JANE" not in str(verdict)


def test_messages_hold_no_patient_data_though_the_values_are_bad(sandbox, tmp_path, recwarn):
    path = tmp_path / "canary.dcm"
    data = to_bytes(a_slice(HEAD[0], PatientName="CANARY^JANE", PatientID="CANARY-7", StudyDescription="CANARY"))
    path.write_bytes(data.replace(b"1.2.3.4.5\0", b"CANARY-77\0").replace(b"045Y", b"CANA"))
    refusal = refusal_of(sandbox, path)
    assert refusal.reason == "invalid_uid"
    assert "CANA" not in str(refusal) + repr(refusal.args) + "".join(str(warning) for warning in recwarn)
    assert refusal.__cause__ is None


def test_changed_bytes_and_missing_files_defer_the_case(sandbox, series):
    paths, digests = series
    with pytest.raises(DeferCase) as caught:
        sandbox.read_series(paths, [*digests[1:], digests[0]])
    assert caught.value.reason == Reason.UNREADABLE
    with pytest.raises(DeferCase):
        sandbox.read_series([paths[0].with_name("absent")], digests[:1])
    assert sandbox.read_series(paths, digests).voxels.shape[0] == 6


def test_pipes_and_folders_are_refused_without_being_opened(sandbox, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refusal_of(sandbox, tmp_path / "pipe").reason == "not_dicom"
    assert refusal_of(sandbox, tmp_path).reason == "not_dicom"
    assert sandbox._child is None


def test_a_file_that_cannot_be_opened_asks_to_try_again(sandbox, tmp_path):
    with pytest.raises(RetryLater):
        sandbox.inspect(tmp_path / "gone.dcm")


def test_threads_share_one_sandbox_and_get_their_own_answers(sandbox, series):
    paths, digests = series
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda path: sandbox.inspect(path).instance_number, paths * 5))
        volumes = list(threads.map(lambda _: sandbox.read_series(paths, digests).voxels.sum(), range(6)))
    assert numbers == [1, 2, 3, 4, 5, 6] * 5
    assert len(set(volumes)) == 1


def test_a_kill_under_load_loses_no_answer(sandbox, series):
    paths, _ = series
    done = threading.Event()

    def kill_now_and_then():
        while not done.wait(0.2):
            child = sandbox._child
            if child is not None:
                os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    outcomes = []
    try:
        for path in paths * 10:
            try:
                outcomes.append(sandbox.inspect(path).instance_number)
            except RefusedInstance as refusal:
                outcomes.append(refusal.reason)
            time.sleep(0.005)
    finally:
        done.set()
        killer.join()
    assert len(outcomes) == 60
    assert set(outcomes) <= {1, 2, 3, 4, 5, 6, "resource_limit"}
    assert set(outcomes) >= {1, 2, 3, 4, 5, 6}


def test_children_are_replaced_after_their_number_of_calls(series):
    with Sandbox(calls_per_child=2) as sandbox:
        seen = set()
        for path in series[0]:
            sandbox.inspect(path)
            seen.add(getattr(sandbox._child, "pid", None))
        assert len(seen) == 4  # three children, and none after every second call


def test_a_child_that_cuts_the_shared_memory_short_cannot_hurt_the_parent(sandbox, series):
    shape = sandbox.read_series(*series).voxels.shape
    sandbox._child.take_voxels(shape)
    os.ftruncate(sandbox._child._memory, 100)
    with pytest.raises(BrokenWireError):
        sandbox._child.take_voxels(shape)


class ForgetfulChild(ChildProcess):
    """A child that asks for room for its first series only, and answers the second with the shape of the first."""

    def call(self, request, deadline, on_room=None):
        if self.calls:
            super().call(request | {"call": "inspect", "path": request["paths"][0]}, deadline, on_room)
            return self.first
        self.first = super().call(request, deadline, on_room)
        return self.first


def test_a_shape_that_was_granted_no_room_in_this_call_never_shows_an_earlier_series(series, monkeypatch):
    monkeypatch.setattr("pipeline.dicom.sandbox.ChildProcess", ForgetfulChild)
    with Sandbox() as sandbox:
        assert sandbox.read_series(*series).voxels.shape[0] == 6
        with pytest.raises(DeferCase) as caught:
            sandbox.read_series(*series)
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize("slices", [3, 5, 7])
def test_only_the_size_that_was_granted_is_taken(sandbox, series, slices):
    sandbox.read_series(*series)
    shorter = sandbox.read_series(series[0][:4], series[1][:4]).voxels.shape
    with pytest.raises(BrokenWireError):
        sandbox._child.take_voxels((slices, *shorter[1:]))
    assert sandbox._child.take_voxels(shorter).shape == shorter


def test_what_an_earlier_series_left_in_the_shared_memory_never_shows(sandbox, series, tmp_path):
    paths, digests = series
    sandbox.read_series(paths, digests)
    (tmp_path / "other").mkdir()
    others = write_series(tmp_path / "other", [a_slice(page + 100, place) for place, page in enumerate(a_head()[:3])])
    there = sandbox.read_series(others, [hashlib.sha256(path.read_bytes()).hexdigest() for path in others])
    assert np.array_equal(there.voxels, read_series_in_process(others).voxels)
    assert np.array_equal(sandbox.read_series(paths, digests).voxels, read_series_in_process(paths).voxels)


def test_more_shared_memory_than_is_kept_is_given_back_after_the_call(series, monkeypatch):
    monkeypatch.setattr(sandbox_process, "MOST_KEPT", 1000)
    with Sandbox() as sandbox:
        for _ in range(2):
            assert sandbox.read_series(*series).voxels.shape[0] == 6
            assert os.fstat(sandbox._child._memory).st_size == 0


def test_a_closed_sandbox_leaves_no_process_and_says_so(series):
    sandbox = Sandbox()
    sandbox.inspect(series[0][0])
    child = sandbox._child.pid
    sandbox.close()
    assert not Path(f"/proc/{child}").exists()
    with pytest.raises(HaltPipeline):
        sandbox.inspect(series[0][0])


def test_a_child_without_room_to_start_names_the_cure(series):
    with Sandbox(memory_mb=16) as sandbox, pytest.raises(HaltPipeline, match="SECONDREAD_DECODE_MEMORY_MB"):
        sandbox.inspect(series[0][0])
