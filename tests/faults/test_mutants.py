"""Broken DICOM files, a thousand in the suite and ten thousand in the slow one, through the real intake and triage.

Whatever they are, the process that takes them in lives and stays small, each has its verdict, and no study that one of
them hurt is ROUTINE, though the release would send there everything that passes the guards.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from pipeline.dicom.attributes import quiet
from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Route
from pipeline.domain.study import InstanceHeader, Verdict
from pipeline.intake import Receipt
from pipeline.store.database import open_database
from tests.element_walker import opened
from tests.mutant_seeds import made_seeds, phantom_series, real_seeds, recoded
from tests.mutants import OPERATORS, mutate, with_uids
from tests.real_intake import RealIntake, lenient_protocol, resident_bytes, strict_protocol
from tests.wounded_slices import QUIET, wounds

SECONDS = 5.0  #: of wall clock for one call; a sound file of this size takes a few milliseconds
ROUNDS = 4  #: of mutants taken in, sealed and decided, so that memory can be compared between them
MOST_GROWTH = 8 * 2**20  #: bytes; keeping the half of a thousand mutants would cost 14 MiB
STRICT, LENIENT = strict_protocol(), lenient_protocol()


class WatchedSandbox(Sandbox):
    """Remembers every call that was ended by the clock and how long the longest took, seconds."""

    def __init__(self) -> None:
        super().__init__(seconds=SECONDS)
        self.ended: list[str] = []
        self.longest = 0.0

    def inspect(self, path: Path) -> InstanceHeader:
        begun = time.monotonic()
        try:
            return super().inspect(path)
        except RefusedInstance as refusal:
            if refusal.reason == "resource_limit":
                self.ended.append(refusal.detail)
            raise
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)


@pytest.fixture
def house(migrated_sqlite: Path, tmp_path: Path) -> Iterator[RealIntake]:
    path = tmp_path / "house.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    database = open_database(f"sqlite:///{path}")
    with WatchedSandbox() as sandbox:
        yield RealIntake(tmp_path, database, sandbox)
    database.close()
    shutil.rmtree(tmp_path / "blobs")  # up to 300 MB


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A sound series of 21 slices whose stored values are rescaled."""
    return phantom_series(tmp_path_factory.mktemp("series"), patient=9001)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Sound files of every kind: those made here, and real ones where they lie at hand."""
    return made_seeds(tmp_path_factory.mktemp("seeds")) | real_seeds()


@dataclass
class Tally:
    """What became of the mutants."""

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str | None] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)  #: by operator
    strict: Counter[str] = field(default_factory=Counter)
    lenient: Counter[str] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)  #: bytes after each round

    def add(self, receipt: Receipt) -> None:
        operator = receipt.path.name.split("-")[1]
        self.verdicts[receipt.verdict.value] += 1
        self.reasons[receipt.reason] += 1
        self.operators[operator] += 1
        self.quarantined[operator] += receipt.verdict is Verdict.QUARANTINED


def mutants_of(seeds: dict[str, bytes], numbers: range) -> dict[str, bytes]:
    """Mutants by name, each of a study of its own."""
    sound = list(seeds.values())
    made = {}
    for number in numbers:
        seed = with_uids(sound[number % len(sound)], number)
        operator, mutant = mutate(seed, number, donor=sound[(7 * number + 3) % len(sound)])
        made[f"{number:06}-{operator}-mutant"] = mutant
    return made


def all_through(house: RealIntake, seeds: dict[str, bytes], count: int, *, lenient: int) -> Tally:
    """So many mutants taken in and sealed, in rounds, and put to the strict protocol, the first ones to both."""
    tally = Tally()
    for first in range(0, count, count // ROUNDS):
        protocols = (STRICT, LENIENT) if first < lenient else (STRICT,)
        mutants = mutants_of(seeds, range(first, first + count // ROUNDS))
        receipts = house.take(mutants)
        assert receipts.keys() == mutants.keys()
        for receipt in receipts.values():
            tally.add(receipt)
        house.seal(*protocols)
        tally.strict.update(one.route.value for one in house.decide(STRICT).values())
        tally.lenient.update(one.route.value for one in house.decide(LENIENT).values())
        tally.resident.append(resident_bytes())
    return tally


def check(house: RealIntake, tally: Tally, count: int) -> None:
    state = house.state()
    assert tally.verdicts.total() == count
    assert sum(state["instances"][verdict.value] for verdict in Verdict) == count
    assert state["instances"]["unaccounted"] == state["studies"]["unrouted"] == state["worklist"]["missing"] == 0
    assert tally.reasons[None] == tally.verdicts["accepted"] + tally.verdicts["duplicate"]
    assert sum(state["cases"].values()) >= state["studies"]["sealed"]
    assert tally.strict["ROUTINE"] == 0, "one file is no series of sixteen slices"
    assert isinstance(house.sandbox, WatchedSandbox)
    assert house.sandbox.ended == []
    assert tally.resident[-1] - tally.resident[ROUNDS // 2 - 1] <= MOST_GROWTH
    # The mutants are worth their time: all operators were used, and they neither spare nor spoil everything.
    assert tally.operators.keys() == OPERATORS.keys()
    assert 0.25 * count <= tally.verdicts["quarantined"] <= 0.75 * count
    assert len(tally.reasons) >= 15
    assert tally.lenient["ROUTINE"] > 0


def test_a_thousand_mutants_each_have_their_verdict_and_hurt_nobody(house, seeds) -> None:
    tally = all_through(house, seeds, 1000, lenient=250)  # one round, for the sake of time
    check(house, tally, 1000)
    assert house.lost_bytes() == []


@pytest.mark.slow
def test_ten_thousand_mutants_each_have_their_verdict_and_hurt_nobody(house, seeds) -> None:
    tally = all_through(house, seeds, 10_000, lenient=10_000)
    check(house, tally, 10_000)


def study_of(series: list[bytes], number: int, hurt: dict[int, str] | None = None) -> dict[str, bytes]:
    """The files of a study of its own, with wounds by place."""
    files = {}
    for place, slice_ in enumerate(series):
        data = with_uids(slice_, number, place)
        wound = (hurt or {}).get(place)
        files[f"{number:04}/{place:02}"] = data if wound is None else wounds(data)[wound]
    return files


def routes_of_wounded(house: RealIntake, series: list[bytes], names: list[str | None]) -> dict[str | None, Route]:
    """The route of one study for each wound, which its first, middle or last slice has, and for None of a sound one."""
    places = (0, len(series) // 2, len(series) - 1)
    of_study: dict[str, str | None] = {}
    for number, name in enumerate(names):
        hurt = {} if name is None else {places[number % 3]: name}
        for receipt in house.take(study_of(series, number, hurt)).values():
            if receipt.verdict is Verdict.ACCEPTED:
                of_study[str(receipt.study)] = name
    house.seal(STRICT)
    return {of_study[study]: decision.route for study, decision in house.decide(STRICT).items()}


def test_no_study_with_one_wounded_slice_is_routine_and_the_sound_ones_are(house, series) -> None:
    names = sorted(wounds(series[0]))
    assert len(names) >= 150
    chosen = sorted({*names[::4], *QUIET})  # neighbouring wounds are kin; the slow test has them all
    assert len(chosen) >= 40
    routes = routes_of_wounded(house, series, [None, *chosen])
    assert routes.pop(None) is Route.ROUTINE
    assert routes.keys() == set(chosen)
    assert [name for name, route in routes.items() if route is not Route.REVIEW] == []
    assert house.state()["instances"]["unaccounted"] == house.state()["studies"]["unrouted"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_no_wound_leaves_a_native_or_compressed_series_routine(house, series, syntax) -> None:
    written = series if syntax is None else [recoded(slice_, syntax) for slice_ in series]
    names = sorted(wounds(written[0]))
    routes = routes_of_wounded(house, written, [None, *names])
    assert routes.pop(None) is Route.ROUTINE
    assert routes.keys() == set(names)
    assert [name for name, route in routes.items() if route is not Route.REVIEW] == []


@pytest.mark.parametrize(
    ("seed", "wound"),
    [
        ("explicit", "pixels in fragments"),  # their headers would be read as pixels
        ("explicit", "PixelRepresentation 65535"),
        ("jpeg_2000", "declared as JPEG"),  # the decoder of JPEG reads it all the same, and stretches it
    ],
)
def test_pixels_that_would_decode_to_other_values_are_refused_at_the_door(seeds, seed, wound) -> None:
    with quiet(), pytest.raises(RefusedInstance) as caught:
        inspect_instance(wounds(seeds[seed])[wound])
    assert (caught.value.reason, caught.value.is_image) == ("bad_pixel_description", True)


def narrower(data: bytes) -> bytes:
    """With a column less in the header than in the pixels."""
    file = opened(data)
    columns = file.find(0x00280011)
    assert columns is not None
    return file.with_value(columns, (int.from_bytes(file.value(columns), "little") - 1).to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("seed", "hurt", "reason"),
    [
        ("rle", narrower, "undecodable"),  # its decoder is written in Rust and panics, which is no Exception
        ("rle", lambda data: data[:-300], "truncated"),
        ("jpeg_2000", lambda data: data[:-300], "truncated"),
        ("frames_rle", lambda data: data[:-1000], "truncated"),
    ],
)
def test_compressed_pixels_that_cannot_be_read_leave_a_gap_in_their_study(seeds, seed, hurt, reason) -> None:
    with quiet(), pytest.raises(RefusedInstance) as caught:
        inspect_instance(hurt(with_uids(seeds[seed], 1)))
    assert (caught.value.reason, caught.value.is_image) == (reason, True)
    assert caught.value.header is not None
    assert caught.value.header.study_instance_uid.startswith("1.1.1.")
