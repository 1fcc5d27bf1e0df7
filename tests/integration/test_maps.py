"""The maps beside the model's answer: who may see them, when, and that drawing them decides nothing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.drawn_map import DrawnMap, MapKind
from pipeline.domain.neighbours import ScoredCases
from pipeline.store import exposure_rows, map_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.exposure_rows import Exposure
from pipeline.store.refusals import ConstraintRefused
from tests.reading_room_cases import (
    AUDIT,
    NOW,
    PLANTED,
    PRIORITY,
    RELEASE,
    Clock,
    Desk,
    Wanted,
    add_case,
    make_room,
    seat,
    visitor,
)

SHAPE = (2, 3, 4)
AFFINE = np.array([[0.0, 0, 2, -4], [0, 3, 0, -5], [6, 0, 0, 7], [0, 0, 0, 1]])
VALUES = {kind: np.arange(24, dtype=np.uint8).reshape(SHAPE) + 10 * n for n, kind in enumerate(MapKind)}
ROLES = ("viewer", "reader", "adjudicator", "lead", "data_scientist", "admin", "service")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, Clock())


def add_maps(database: Database, blobs: BlobStore, case_id: str, *, release: str = RELEASE) -> None:
    maps = [
        DrawnMap(kind=kind, series=0, values=values, affine=AFFINE, full_scale=0.4321)
        for kind, values in VALUES.items()
    ]
    stored = [(one, blobs.put(zlib.compress(one.values.tobytes()))) for one in maps]
    with database.transaction() as connection:
        map_rows.add_maps(connection, case_id=case_id, maps=stored, release_digest=release, now=NOW)


def read_case(desk: Desk, case_id: str, *, reveal: bool = True) -> None:
    assert desk.post(f"/cases/{case_id}/claim").status_code == 303
    assert desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=3).status_code == 303
    if reveal:
        assert desk.post(f"/cases/{case_id}/reveal").status_code == 303


def asked(desk: Desk, case_id: str) -> dict[str, tuple[int, str]]:
    """Status and body of everything about maps."""
    paths = [f"/cases/{case_id}/maps", *(f"/cases/{case_id}/maps/{kind}" for kind in MapKind)]
    paths += [f"/cases/{case_id}/maps/SALIENCY?series=1"]
    answers = {path: desk.get(path) for path in paths}
    return {
        path.replace(case_id, "ID"): (one.status_code, one.text.replace(case_id, "ID")) for path, one in answers.items()
    }


def test_after_the_reveal_the_maps_are_told_and_given(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id)
    desk = seat(app, database)
    read_case(desk, case_id)
    told = desk.get(f"/cases/{case_id}/maps").json()["maps"]
    assert {one["kind"] for one in told} == set(MapKind)
    assert told[0]["shape"] == list(SHAPE)
    assert told[0]["affine"] == AFFINE.tolist()
    assert told[0]["full_scale"] == 0.4321
    for kind, values in VALUES.items():
        answer = desk.get(f"/cases/{case_id}/maps/{kind}")
        assert answer.content == values.tobytes()
        assert answer.headers["content-type"] == "application/octet-stream"
    assert desk.get(f"/cases/{case_id}/maps/SALIENCY?series=1").status_code == 404
    assert desk.get(f"/cases/{case_id}/maps/ELSE").status_code == 422


@pytest.mark.parametrize("wanted", [Wanted(), AUDIT, PRIORITY], ids=["review", "audit", "priority"])
def test_before_the_reveal_nothing_tells_whether_there_are_maps(
    app: FastAPI, database: Database, blobs: BlobStore, wanted: Wanted
) -> None:
    """Two cases alike, one with maps: every role gets the same answers about both, before and after committing."""
    with_maps, without = (add_case(database, blobs, replace(wanted, specialty="neuroradiology")) for _ in range(2))
    add_maps(database, blobs, with_maps)
    desks = {role: seat(app, database, f"p.{role}", role=role) for role in ROLES}
    unknown = "0" * 36
    for role, desk in desks.items():
        answers = asked(desk, with_maps)
        assert answers == asked(desk, without) == asked(desk, unknown), role
        assert {status for status, _ in answers.values()} <= {403, 404}, role
        if role in {"viewer", "reader", "adjudicator", "lead"}:
            assert {status for status, _ in answers.values()} == {404}, role
        page, other = (desk.get(f"/cases/{one}").text.replace(one, "ID") for one in (with_maps, without))
        assert "maps" not in page.lower()
        assert len(page) == len(other), role
    nobody = {visitor(app).get(f"/cases/{with_maps}/maps{end}").status_code for end in ("", "/SALIENCY")}
    assert nobody <= {303, 401}
    reader = desks["reader"]
    read_case(reader, with_maps, reveal=False)
    assert {status for status, _ in asked(reader, with_maps).values()} == {404}
    assert reader.post(f"/cases/{with_maps}/reveal").status_code == 303
    assert reader.get(f"/cases/{with_maps}/maps").status_code == 200
    for role in ("viewer", "adjudicator", "lead"):
        assert {status for status, _ in asked(desks[role], with_maps).values()} == {404}, role
    assert {status for status, _ in asked(reader, without).values()} == {404}


def test_the_page_asks_before_it_shows_a_map(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id, plain = add_case(database, blobs, Wanted()), add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id)
    desk = seat(app, database)
    for one in (case_id, plain):
        read_case(desk, one)
    page = desk.get(f"/cases/{case_id}").text
    assert "Not proof of anything; it can be wrong where it looks convincing." in page
    assert 'aria-expanded="false"' in page
    assert '<div id="maps-drawn" hidden>' in page
    assert "Show the maps" not in desk.get(f"/cases/{plain}").text
    assert not seen(database, case_id)


def seen(database: Database, case_id: str) -> set[str]:
    with database.read() as connection:
        return {one.name for one in exposure_rows.of_case(connection, case_id) if one.kind is Exposure.MAPS}


def test_who_was_shown_a_map_is_noted_once(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id)
    desk, other = seat(app, database), seat(app, database, "dr.weiss")
    read_case(desk, case_id)
    assert not seen(database, case_id)
    for _ in range(2):
        assert desk.get(f"/cases/{case_id}/maps/SALIENCY").status_code == 200
        assert other.get(f"/cases/{case_id}/maps/SALIENCY").status_code == 404
    assert seen(database, case_id) == {"dr.okafor"}
    with database.read() as connection:
        lines = [one for one in exposure_rows.of_case(connection, case_id) if one.kind is Exposure.MAPS]
    assert len(lines) == 1


def test_maps_of_another_release_are_not_shown(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id, release="0" * 64)
    desk = seat(app, database)
    read_case(desk, case_id)
    assert {status for status, _ in asked(desk, case_id).values()} == {404}


def test_a_map_whose_bytes_are_lost_is_not_there(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id)
    desk = seat(app, database)
    read_case(desk, case_id)
    digest = blobs.put(zlib.compress(VALUES[MapKind.SALIENCY].tobytes()))
    blobs.path(digest).write_bytes(b"other bytes")
    assert desk.get(f"/cases/{case_id}/maps/SALIENCY").status_code == 404
    assert desk.get(f"/cases/{case_id}/maps/INPUT").status_code == 200
    assert seen(database, case_id) == {"dr.okafor"}


def test_a_case_has_its_maps_once(database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    add_maps(database, blobs, case_id)
    with pytest.raises(ConstraintRefused):
        add_maps(database, blobs, case_id)


def to_draw(database: Database, case_id: str, release: str = RELEASE) -> bool:
    with database.read() as connection:
        return map_rows.revision_to_draw(connection, case_id=case_id, release_digest=release) is not None


def test_only_cases_that_a_person_reads_and_that_release_spoke_on_are_drawn(
    database: Database, blobs: BlobStore
) -> None:
    asked_for, unread = (
        add_case(database, blobs, AUDIT),
        add_case(database, blobs, replace(AUDIT, item_reasons=None, audit=False)),
    )
    silent = add_case(database, blobs, Wanted(answered=False))
    assert to_draw(database, asked_for)
    assert not to_draw(database, asked_for, "0" * 64)
    assert not to_draw(database, unread)
    assert not to_draw(database, silent)
    add_maps(database, blobs, asked_for)
    assert not to_draw(database, asked_for)


def test_the_neighbours_are_shown_in_words_after_the_reveal(database: Database, blobs: BlobStore) -> None:
    """The planted score is 0.38263; of 60 certification patients the 20 nearest reach from 0.21 to 0.56 by hand."""
    scores = np.arange(1, 61) / 55.0 - 0.02
    cases = ScoredCases.of(scores[scores < 1.0], (np.arange(1, 61) % 5 < 3)[scores < 1.0])
    known: list[tuple[str, float]] = []

    def neighbours(release: str, score: float) -> Any:
        known.append((release, score))
        return cases.nearest(score)

    with Sandbox() as sandbox:
        app = make_room(database, blobs, sandbox, Clock(), neighbours=neighbours)
        case_id = add_case(database, blobs, Wanted())
        desk = seat(app, database)
        read_case(desk, case_id, reveal=False)
        assert "certification patients" not in desk.get(f"/cases/{case_id}").text
        assert known == []
        desk.post(f"/cases/{case_id}/reveal")
        page = desk.get(f"/cases/{case_id}").text
    assert known == [(RELEASE, PLANTED[1])]
    found = cases.nearest(PLANTED[1])
    assert found is not None
    assert (found.count, found.certified) == (20, len(cases.scores))
    near = f"most similar score ({found.span[0]:.3f} to {found.span[1]:.3f})"
    assert f"Of the 20 certification patients with the {near}, {found.with_finding} had the finding: " in page
    assert f"95 % interval {100 * found.low:.1f} % to {100 * found.high:.1f} %." in page
    assert "A similar score is not a similar image" in page
    assert page.count('r="3.5"') >= 20


def test_without_neighbours_at_hand_the_page_says_nothing_of_them(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk = seat(app, database)
    read_case(desk, case_id)
    assert "certification patients" not in desk.get(f"/cases/{case_id}").text
