"""Files and names that are made to exhaust whoever opens them, in the folder of a sound study, through the real intake.

Each is quarantined with its reason within the sandbox's clock, the process that takes them in stays small, and the
study beside them is triaged as if nothing had been there.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Route
from pipeline.domain.study import Verdict
from pipeline.store.database import open_database
from tests.bombs import BOMBS, MIB, deflated_elements, many_numbers
from tests.mutant_seeds import phantom_series
from tests.real_intake import RealIntake, strict_protocol

SECONDS = 10.0  #: of wall clock and processor time for one file: what is not refused by then is refused for that
MOST_GROWTH = (
    16 * MIB
)  #: of the parent's resident memory at its peak: it copies a mebibyte at a time and parses nothing
STRICT = strict_protocol()


@pytest.fixture
def house(migrated_sqlite: Path, tmp_path: Path) -> Iterator[RealIntake]:
    path = tmp_path / "house.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    database = open_database(f"sqlite:///{path}")
    with Sandbox(seconds=SECONDS) as sandbox:
        yield RealIntake(tmp_path, database, sandbox)
    database.close()


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """A folder with a sound study of twenty slices."""
    folder = tmp_path / "drop"
    (folder / "sound").mkdir(parents=True)
    for place, slice_ in enumerate(phantom_series(tmp_path)):
        (folder / "sound" / f"{place:02}").write_bytes(slice_)
    return folder


def forget_peak() -> None:
    """Begin a new peak of resident memory (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


def routes(house: RealIntake) -> list[Route]:
    house.seal(STRICT)
    return [decision.route for decision in house.decide(STRICT).values()]


def holds(house: RealIntake) -> bool:
    state = house.state()
    lost = state["instances"]["unaccounted"] + state["studies"]["unrouted"] + state["worklist"]["missing"]
    return lost == 0 and house.lost_bytes() == []


def test_bombs_are_quarantined_with_their_reasons_and_the_study_beside_them_is_routine(house, incoming) -> None:
    for name, (make, _) in BOMBS.items():
        (incoming / f"{name}.dcm").write_bytes(make())
    forget_peak()
    before = peak_bytes()
    receipts = house.take_folder(incoming)
    assert peak_bytes() - before <= MOST_GROWTH
    bombs = {one.path.stem: (one.verdict, one.reason) for one in receipts if one.path.parent == incoming}
    assert bombs == {name: (Verdict.QUARANTINED, reason) for name, (_, reason) in BOMBS.items()}
    assert {one.verdict for one in receipts if one.path.parent != incoming} == {Verdict.ACCEPTED}
    assert sorted(routes(house)) == [Route.REVIEW, Route.ROUTINE]  # the bombs that name a study all name one
    assert holds(house)


def test_what_outlasts_the_clock_is_a_resource_limit_and_the_next_file_is_read(house, incoming) -> None:
    (incoming / "first.dcm").write_bytes(deflated_elements())
    with Sandbox(seconds=1.0) as hasty:
        house.sandbox = hasty
        first, *others = house.take_folder(incoming)
    assert (first.path.name, first.verdict, first.reason) == ("first.dcm", Verdict.QUARANTINED, "resource_limit")
    assert {one.verdict for one in others} == {Verdict.ACCEPTED}


def test_an_endless_list_of_numbers_is_an_absent_value_that_costs_nothing() -> None:
    data = many_numbers()
    tracemalloc.start()
    try:
        header = inspect_instance(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 10 * len(data)  # as objects they would take a hundred times their bytes
    assert (header.image_position, header.image_orientation) == (None, (1, 0, 0, 0, 1, 0))


@pytest.mark.parametrize("name", ["thousand_sequences_last", "hundred_thousand_sequences_last", "endless_position"])
def test_a_bomb_behind_the_name_of_its_study_is_a_gap_in_that_study(name: str) -> None:
    make, _ = BOMBS[name]
    with pytest.raises(RefusedInstance) as caught:
        inspect_instance(make())
    assert caught.value.header is not None
    assert (caught.value.header.study_instance_uid, caught.value.is_image) == ("1.2.3.4", True)


def odd_names(folder: Path, secret: Path) -> dict[str, str]:
    """Make names that are no files of their own, and say why each is refused."""
    os.mkfifo(folder / "pipe.dcm")
    (folder / "zeros.dcm").symlink_to("/dev/zero")
    (folder / "secret.dcm").symlink_to(secret)
    (folder / "nowhere.dcm").symlink_to(folder / "absent")
    (folder / "itself.dcm").symlink_to(folder / "itself.dcm")
    (folder / "devices").symlink_to("/dev")
    (folder / "around").symlink_to(folder)
    reasons = dict.fromkeys(
        ["zeros.dcm", "secret.dcm", "nowhere.dcm", "itself.dcm", "devices", "around"], "symbolic_link"
    )
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("socket.dcm")
    with contextlib.suppress(PermissionError):
        os.mknod(folder / "device.dcm", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # another /dev/zero
        reasons["device.dcm"] = "not_a_file"
    return reasons | {"pipe.dcm": "not_a_file", "socket.dcm": "unreadable_file"}


def test_pipes_devices_sockets_and_links_are_refused_by_name_and_never_read(house, incoming, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((incoming / "sound" / "00").read_bytes())
    reasons = odd_names(incoming, secret)
    receipts = house.take_folder(incoming)
    refused = {one.path.name: one.reason for one in receipts if one.verdict is Verdict.QUARANTINED}
    assert refused == reasons
    assert house.state()["instances"] == {"accepted": 20, "duplicate": 0, "quarantined": 0, "unaccounted": 0}
    assert routes(house) == [Route.ROUTINE]
    assert holds(house)
