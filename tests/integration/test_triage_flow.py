"""The triage flow on a small house: real phantoms, a real release, a real Prefect server."""

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import select, update

from flows import triage_desk
from flows.bootstrap import open_house
from flows.champion import ChampionDesk
from flows.receiving import take_in
from flows.triage_desk import TriageDesk
from pipeline import triage
from pipeline.dicom.phantoms import Defect, StreamEntry
from pipeline.errors import RetryLater
from pipeline.store import alias_rows, case_rows, conservation
from pipeline.store.tables import case
from tests.small_house import register_small_release, settings_of, tiny_protocol_file, write_phantoms

STREAM = (
    StreamEntry(finding=True),
    StreamEntry(finding=False),
    StreamEntry(finding=False, defect=Defect.OTHER_MODALITY),
    StreamEntry(finding=True, defect=Defect.MISSING_SLICE),
    StreamEntry(finding=True, defect=Defect.REPORT_ONLY),
)


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was():
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with a registered challenger, no champion, and the phantoms beside it."""
    base = tmp_path_factory.mktemp("template")
    tiny_protocol_file(base)
    write_phantoms(base / "phantoms", STREAM)
    with open_house(settings_of(base), create=True) as house:
        register_small_release(house, base / "phantoms" / "labels.csv")
        take_in(house, base / "phantoms" / "stream", source="test")
    return base


@pytest.fixture
def house(template, tmp_path):
    """A copy of the template's home; its registry still reads artefacts where the template wrote them."""
    shutil.copytree(template / "home", tmp_path / "home")
    shutil.copy(template / "tiny.yaml", tmp_path / "tiny.yaml")
    with open_house(settings_of(tmp_path, chunk_size=2, lease_seconds=30)) as opened:
        yield opened


@pytest.fixture
def protocol(house):
    return next(iter(house.protocols.values()))


def promoted(house, protocol):
    from flows.promotion_flow import promote

    outcome = promote(house, protocol, "challenger", actor="anna", reason="because")
    assert outcome["moved"], outcome
    return outcome


def state_of(house):
    with house.database.read() as connection:
        return conservation.status(connection, datetime.now(UTC))


def test_a_run_gives_every_study_one_route_and_leaves_a_report_in_prefect(house, protocol):
    import httpx

    from flows.prefect_server import prefect_server
    from flows.triage_flow import run_triage

    promoted(house, protocol)
    told = []

    with prefect_server(house.settings.home) as address:
        summary = run_triage(house, seal_now=True, on_progress=lambda *said: told.append(said))
        artifacts = httpx.post(f"{address}/artifacts/filter", json={}).json()
        runs = httpx.post(f"{address}/flow_runs/filter", json={}).json()

    assert summary["decided"] == len(STREAM)
    assert (summary["waiting"], summary["open_studies"], summary["release_problems"]) == (0, 0, [])
    assert len({one["study"] for one in summary["cases"]}) == len(STREAM)
    assert sum(summary["routes"].values()) == len(STREAM)
    assert summary["routes"]["OUT_OF_SCOPE"] == 2
    assert told[-1][:3] == ("triage", len(STREAM), len(STREAM))
    report = next(one for one in artifacts if one["key"] == "triage-report")
    assert "| OUT_OF_SCOPE | WRONG_MODALITY | 1 |" in report["data"]
    assert next(one for one in artifacts if one["key"] == "triage-progress")["data"] == 100.0
    assert [run["parameters"] for run in runs] == [{"wait": True, "seal_now": True}]
    state = state_of(house)
    assert state["instances"]["unaccounted"] == state["studies"]["unrouted"] == 0


def test_without_a_champion_every_case_in_scope_goes_to_a_clinician(house):
    desk = TriageDesk(house)
    desk.seal(everything=True)
    desk.work_off()

    summary = desk.summary()

    assert summary["routes"] == {"OUT_OF_SCOPE": 2, "REVIEW": 3}
    assert "no champion" in summary["release_problems"][0]


def test_a_champion_that_only_mlflow_knows_may_not_speak(house, protocol):
    house.registry.set_alias(f"secondread-{protocol.name}", "champion", "1")

    champion = ChampionDesk(house).resolve(protocol)

    assert champion.predictor is None
    assert "has no champion" in champion.problem


def test_a_champion_of_which_mlflow_names_another_digest_may_not_speak(house, protocol):
    promoted(house, protocol)
    with house.database.transaction() as connection:
        alias_rows.record_alias(
            connection,
            model=f"secondread-{protocol.name}",
            alias="champion",
            version="1",
            release_digest="0" * 64,
            actor="mallory",
            reason="",
            at=datetime.now(UTC),
        )

    champion = ChampionDesk(house).resolve(protocol)

    assert champion.predictor is None
    assert champion.problem.startswith("RELEASE_INVALID")


def test_a_champion_whose_bytes_were_changed_is_fetched_again_or_may_not_speak(house, protocol, template):
    digest = promoted(house, protocol)["digest"]
    weights = house.registry.cache / digest / "members" / "00.safetensors"
    weights = weights if weights.exists() else next((house.registry.cache / digest / "members").iterdir())
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")

    assert ChampionDesk(house).resolve(protocol).predictor is not None

    artifacts = next((template / "home").rglob(f"artifacts/**/{weights.name}"))
    original = artifacts.read_bytes()
    try:
        artifacts.write_bytes(original[:-1] + b"\0")
        shutil.rmtree(house.registry.cache / digest)
        assert ChampionDesk(house).resolve(protocol).predictor is None
    finally:
        artifacts.write_bytes(original)


def test_chunks_grow_until_one_lasts_ten_seconds_and_shrink_to_the_setting(house):
    desk = TriageDesk(house)
    sizes = []
    for cases, seconds in ((2, 0.5), (4, 1.0), (8, 16.0), (5, 100.0), (2, 0.0)):
        desk._resize_chunk([SimpleNamespace(attempts=1)] * cases, seconds)
        sizes.append(desk._chunk_size)
    assert sizes == [4, 8, 5, 2, 4]


def test_after_a_chunk_with_one_case_begun_before_the_next_is_of_the_setting(house):
    desk = TriageDesk(house)
    fresh, again = SimpleNamespace(attempts=1), SimpleNamespace(attempts=2)
    sizes = []
    for cases in ([fresh] * 2, [fresh] * 4, [*[fresh] * 7, again], [again, fresh], [fresh] * 2):
        desk._resize_chunk(cases, 0.1)
        sizes.append(desk._chunk_size)
    assert sizes == [4, 8, 2, 2, 4]


def test_what_a_dead_worker_left_is_taken_up_in_chunks_of_the_setting_however_far_they_have_grown(house, protocol):
    dead, desk = TriageDesk(house), TriageDesk(house)
    desk.seal(everything=True)
    dead._chunk_size = desk._chunk_size = 4
    left = dead.claim(protocol.name)
    assert len(left) == 4
    with house.database.transaction() as connection:
        connection.execute(update(case).where(case.c.id.in_(left)).values(lease_until=datetime.now(UTC)))

    taken = []
    while case_ids := desk.claim(protocol.name):
        desk.decide(case_ids)
        taken.append(case_ids)

    assert [len(case_ids) for case_ids in taken] == [2, 2, 1]
    assert sorted(taken[0] + taken[1]) == sorted(left)
    assert desk.decided == len(STREAM)


def test_the_champion_is_loaded_once_and_asked_for_at_every_claim(house, protocol, monkeypatch):
    promoted(house, protocol)
    asked = []
    resolve = ChampionDesk.resolve
    monkeypatch.setattr(ChampionDesk, "resolve", lambda self, p: asked.append(p.name) or resolve(self, p))
    loaded = []
    from flows import champion

    load = champion.load_predictor
    monkeypatch.setattr(champion, "load_predictor", lambda *given: loaded.append(1) or load(*given))
    monkeypatch.setattr(triage_desk, "CHUNK_SECONDS", 1e9)
    desk = TriageDesk(house)
    desk.seal(everything=True)

    desk.work_off()

    assert len(asked) == 2, "five cases: a chunk of two, then one of at most four"
    assert len(loaded) == 1


def test_a_registry_that_stays_away_sends_the_case_to_a_clinician_in_the_end(house, monkeypatch):
    def away(*_):
        raise RetryLater("away")

    monkeypatch.setattr(ChampionDesk, "resolve", away)
    desk = TriageDesk(house)
    desk.seal(everything=True)
    for _ in range(triage.MOST_ATTEMPTS):
        desk.work_off()
        with house.database.transaction() as connection:
            connection.execute(update(case).values(not_before=datetime.now(UTC)))

    summary = desk.summary()

    assert summary["decided"] == len(STREAM)
    assert summary["routes"] == {"OUT_OF_SCOPE": 2, "REVIEW": 3}
    assert {"route": "REVIEW", "reason": "NOT_ANALYSED", "cases": 3} in summary["reasons"]


def test_what_is_away_is_tried_again_and_other_errors_are_not(house):
    from flows.triage_flow import _is_worth_retrying

    def failed(error):
        return SimpleNamespace(result=lambda raise_on_failure: error)

    assert _is_worth_retrying(None, None, failed(RetryLater("busy")))
    assert not _is_worth_retrying(None, None, failed(ValueError("wrong")))


def test_a_case_that_cannot_be_decided_now_goes_back_to_the_queue_and_keeps_the_others_going(house, monkeypatch):
    desk = TriageDesk(house)
    desk.seal(everything=True)
    decided = triage.PreparedCase.decided
    unlucky = []

    def sometimes(prepared, now):
        if not unlucky:
            unlucky.append(prepared)
        if prepared is unlucky[0]:
            raise RuntimeError("broken")
        return decided(prepared, now)

    monkeypatch.setattr(triage.PreparedCase, "decided", sometimes)

    desk.work_off()

    assert (desk.decided, desk.summary()["waiting"]) == (len(STREAM) - 1, 1)
    with house.database.read() as connection:
        assert case_rows.count_held(connection) == 0
        assert case_rows.count_ready(connection, now=datetime.now(UTC)) == 0
        assert case_rows.count_ready(connection, now=datetime.now(UTC) + timedelta(minutes=2)) == 1


def lease_ends(house, case_ids):
    with house.database.read() as connection:
        query = select(case.c.id, case.c.lease_until).where(case.c.id.in_(case_ids))
        return {row.id: row.lease_until for row in connection.execute(query)}


def test_leases_are_renewed_while_a_chunk_is_worked_on(house, protocol):
    object.__setattr__(house, "settings", house.settings.model_copy(update={"lease_seconds": 6.0}))
    desk = TriageDesk(house)
    desk.seal(everything=True)
    with desk.leases():
        case_ids = desk.claim(protocol.name)
        first = lease_ends(house, case_ids)
        end = time.monotonic() + 60
        while time.monotonic() < end and any(until <= first[i] for i, until in lease_ends(house, case_ids).items()):
            time.sleep(0.2)
        renewed = lease_ends(house, case_ids)
        desk.decide(case_ids)

    assert all(renewed[case_id] > first[case_id] for case_id in case_ids)
    assert desk.decided == len(case_ids) == 2


def test_a_decision_replays_bit_for_bit(house, protocol):
    from flows.replaying import replay_case

    promoted(house, protocol)
    desk = TriageDesk(house)
    desk.seal(everything=True)
    desk.work_off()

    assert all(replay_case(house, one["case"])["identical"] for one in desk.summary()["cases"])


def test_rollback_makes_the_earlier_champion_the_champion_again(house, protocol, template):
    from flows.promotion_flow import promote, roll_back
    from pipeline.errors import HaltPipeline

    promoted(house, protocol)
    with pytest.raises(HaltPipeline, match="no earlier champion"):
        roll_back(house, protocol, actor="anna", reason="")
    content = (house.settings.home.parent / "tiny.yaml").read_text()
    (house.settings.home.parent / "tiny.yaml").write_text(content.replace("question:", "question: Again,"))
    with open_house(house.settings) as other:
        changed = next(iter(other.protocols.values()))
        version = register_small_release(other, template / "phantoms" / "labels.csv")
        promote(other, changed, version, actor="anna", reason="")
    assert ChampionDesk(house)._agreed(protocol)[1] == version

    outcome = roll_back(house, protocol, actor="bert", reason="worse")

    assert (outcome["moved"], outcome["version"]) == (True, "1")
    assert ChampionDesk(house)._agreed(protocol)[1] == "1"
    from flows.releases import alias_history

    last = alias_history(house, protocol)[-1]
    assert (last["actor"], last["reason"], last["version"]) == ("bert", "worse", "1")
