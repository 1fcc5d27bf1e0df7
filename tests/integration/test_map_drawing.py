"""Maps drawn on a small house with a real release: after the decision, beside it, and without any say in it."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sqlalchemy import select

from flows.bootstrap import House, open_house
from flows.map_drawing import MapDrawer
from flows.promotion_flow import promote
from flows.receiving import take_in
from flows.releases import neighbours_of
from flows.replaying import replay_case
from flows.triage_desk import TriageDesk
from models.predictor import ReleasePredictor
from pipeline.dicom.phantoms import Defect, StreamEntry
from pipeline.domain.drawn_map import MapKind
from pipeline.store.room_tables import case_map
from pipeline.store.tables import decision, worklist_item
from tests.small_house import register_small_release, settings_of, tiny_protocol_file, write_phantoms

STREAM = (
    StreamEntry(finding=True),
    StreamEntry(finding=False),
    StreamEntry(finding=False, defect=Defect.OTHER_MODALITY),
    StreamEntry(finding=True, defect=Defect.MISSING_SLICE),
)


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion, and studies that wait to be sealed."""
    base = tmp_path_factory.mktemp("template")
    tiny_protocol_file(base)
    write_phantoms(base / "phantoms", STREAM)
    with open_house(settings_of(base), create=True) as house:
        register_small_release(house, base / "phantoms" / "labels.csv")
        (protocol,) = house.protocols.values()
        assert promote(house, protocol, "challenger", actor="anna", reason="because")["moved"]
        take_in(house, base / "phantoms" / "stream", source="test")
    return base


def opened(template: Path, folder: Path, *, maps: bool) -> House:
    """A copy of the template's home, whose protocol asks for maps or does not."""
    folder.mkdir()
    shutil.copytree(template / "home", folder / "home")
    content = yaml.safe_load((template / "tiny.yaml").read_text())
    content["reading"] = {"maps": maps}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return open_house(settings_of(folder))


def worked_off(house: House) -> dict[str, Any]:
    desk = TriageDesk(house)
    desk.seal(everything=True)
    desk.work_off()
    return desk.summary()


def rows(house: House, *columns: Any) -> list[Any]:
    with house.database.read() as connection:
        return list(connection.execute(select(*columns)))


def decisions(house: House) -> list[tuple[Any, ...]]:
    """All that was decided, apart from ids and moments."""
    found = rows(
        house, decision.c.route, decision.c.reasons, decision.c.guards, decision.c.evidence, decision.c.samples_digest
    )
    return sorted((repr(tuple(row)),) for row in found)


def test_maps_are_drawn_of_what_a_person_reads_and_change_no_decision(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path / "off", maps=False) as plain, opened(template, tmp_path / "on", maps=True) as house:
        worked_off(plain)
        summary = worked_off(house)
        assert decisions(house) == decisions(plain)
        assert rows(plain, case_map.c.case_id) == []
        spoken = {row.case_id for row in rows(house, decision) if row.samples_digest is not None}
        read = {row.case_id for row in rows(house, worklist_item.c.case_id)}
        drawn = {row.case_id for row in rows(house, case_map.c.case_id)}
        assert drawn == spoken & read != set()
        assert summary["seconds"]["drawing maps"] > 0
        for case_id in drawn:
            kept = {row.kind: row for row in rows(house, case_map) if row.case_id == case_id}
            assert set(kept) == set(MapKind)
            for row in kept.values():
                values = zlib.decompress(house.blobs.read(row.sha256))
                assert row.shape == [12, 32, 32]
                assert len(values) == 12 * 32 * 32
            assert (
                max(max(zlib.decompress(house.blobs.read(kept[k].sha256))) for k in ("SALIENCY", "UNCERTAINTY")) == 255
            )
            spacing = np.linalg.norm(np.array(kept["INPUT"].affine)[:3, :3], axis=0)
            np.testing.assert_allclose(spacing, [12.0, 6.4, 6.4], rtol=1e-6)
            assert replay_case(house, case_id)["identical"]


def test_a_second_run_draws_nothing_again(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path / "on", maps=True) as house:
        worked_off(house)
        before = rows(house, case_map.c.case_id, case_map.c.made_at)
        worked_off(house)
        drawer, (name,) = MapDrawer(house), house.protocols
        drawer.wish(before[0].case_id, name)
        assert drawer.draw_next(TriageDesk(house)._bench_now)
        assert rows(house, case_map.c.case_id, case_map.c.made_at) == before


@pytest.mark.parametrize("error", [ValueError, MemoryError, TimeoutError, RuntimeError])
def test_a_drawing_that_fails_costs_the_maps_and_nothing_else(
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def fail(*_: Any) -> Any:
        raise error("Doe^Jane")

    monkeypatch.setattr(ReleasePredictor, "maps", fail)
    with opened(template, tmp_path / "on", maps=True) as house:
        summary = worked_off(house)
        assert summary["decided"] == len(STREAM)
        assert summary["waiting"] == 0
        assert rows(house, case_map.c.case_id) == []
    assert {record.message for record in caplog.records if record.name == "flows.map_drawing"} == {"a case has no maps"}
    assert "Doe" not in caplog.text


def test_a_drawing_that_takes_too_long_is_given_up(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path / "on", maps=True) as house:
        desk = TriageDesk(house)
        desk._maps = MapDrawer(house, seconds=0.0)
        desk.seal(everything=True)
        desk.work_off()
        assert desk.decided == len(STREAM)
        assert rows(house, case_map.c.case_id) == []


def test_cases_that_wait_come_before_maps(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    whole, decide = MapDrawer._draw, TriageDesk.decide
    monkeypatch.setattr(MapDrawer, "_draw", lambda *given: (order.append("map"), whole(*given))[1])
    monkeypatch.setattr(TriageDesk, "decide", lambda *given: (order.append("decide"), decide(*given))[1])
    with opened(template, tmp_path / "on", maps=True) as house:
        worked_off(house)
    assert "map" in order
    assert "decide" not in order[order.index("map") :]


def test_a_real_release_knows_the_neighbours_of_its_cases(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path / "on", maps=False) as house:
        worked_off(house)
        spoken = [row for row in rows(house, decision) if row.samples_digest is not None]
        found = neighbours_of(house, spoken[0].release_digest, spoken[0].route_score)
        assert found is not None
        assert (found.count, found.certified, found.with_finding) == (6, 6, 3)
