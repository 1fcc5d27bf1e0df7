"""Step 1, when we ask: what the PACS lists is wanted, what is wanted is fetched, what does not come is never dropped.

A list is a hint and not a truth: every look goes back over the same days, every study is compared instance count by
instance count with the ledger, and a study is fetched only when the ledger holds what was announced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from pipeline.dicom.pacs import Pacs, PacsSeries, PacsStudy, Take
from pipeline.domain.announced import NOT_IMAGES, AnnouncedSeries, Announcement
from pipeline.domain.retrying import is_over, next_attempt
from pipeline.errors import RetryLater
from pipeline.store import audit_rows, pacs_rows, pull_rows, study_rows
from pipeline.store.database import Database, Transaction
from pipeline.store.pull_rows import WantedStudy

LOGGER = logging.getLogger(__name__)
ACTOR = "pull"
LEASE = timedelta(minutes=30)
"""How long a run holds a study that it fetches; a slower one may be fetched twice, and duplicates cost nothing."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What one look at the PACS did: studies listed, newly wanted, fetched whole, put off, parked."""

    listed: int
    wanted: int
    fetched: int
    put_off: int
    parked: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A PACS with its name in our tables and what is fetched of it."""

    name: str
    pacs: Pacs
    modalities: tuple[str, ...]
    look_back: timedelta


def look(database: Database, source: Source, *, now: datetime) -> tuple[int, int]:
    """List what the PACS has since the last look, and note what we lack; listed and newly wanted studies.

    The cursor moves only after everything listed was noted. Raises RetryLater when the PACS or the database is away.
    """
    with database.read() as connection:
        until = pull_rows.looked_until(connection, source.name)
    since = min(until or now, now) - source.look_back
    listed = [study for study in source.pacs.studies(since, now) if _is_asked_for(study, source.modalities)]
    wanted = sum(_want(database, source, study.uid, now) for study in listed)
    with database.transaction() as connection:
        pull_rows.move_cursor(connection, source.name, now)
    return len(listed), wanted


def _is_asked_for(study: PacsStudy, modalities: tuple[str, ...]) -> bool:
    """A study whose modalities the PACS does not tell is looked at."""
    return not study.modalities or not set(study.modalities).isdisjoint(modalities)


def _want(database: Database, source: Source, study_uid: str, now: datetime) -> bool:
    expected = expected_images(source.pacs.series(study_uid))
    with database.transaction() as connection:
        if not expected or not lacking(connection, study_uid, expected):
            return False
        return pull_rows.want(connection, source.name, study_uid, expected, now)


def expected_images(series: Iterable[PacsSeries]) -> dict[str, int]:
    """Announced instances of each series that may hold images; 1 where the PACS does not count them."""
    return {found.uid: found.instances or 1 for found in series if found.modality not in NOT_IMAGES}


def lacking(connection: Transaction, study_uid: str, expected: Mapping[str, int]) -> int:
    """How many announced instances of a study never came here."""
    known = pacs_rows.study_ids(connection, [study_uid]).get(study_uid)
    if known is None:
        return sum(expected.values())
    held = pacs_rows.received_by_series(connection, known)
    ours = pacs_rows.own_series(connection, known)
    return sum(max(0, count - held.get(series, 0)) for series, count in expected.items() if series not in ours)


def fetch_due(
    database: Database, source: Source, take: Take, *, now: Callable[[], datetime], random: Random
) -> dict[str, int]:
    """Fetch every wanted study that is due; counts of fetched, put_off and parked. Raises RetryLater for the database.

    Each is claimed by itself, so that runs that overlap share the work and ask the PACS for nothing twice.
    """
    done: list[str] = []
    while (study := _claim(database, source, now())) is not None:
        done.append(_fetch(database, source, study, take, now=now, random=random))
    return {state: done.count(state) for state in ("fetched", "put_off", "parked")}


def _claim(database: Database, source: Source, now: datetime) -> WantedStudy | None:
    with database.transaction() as connection:
        return pull_rows.claim_next(connection, source.name, now=now, lease=LEASE)


def _fetch(
    database: Database, source: Source, study: WantedStudy, take: Take, *, now: Callable[[], datetime], random: Random
) -> str:
    problem = ""
    try:
        source.pacs.fetch(study.study_instance_uid, take)
    except RetryLater as error:
        problem = str(error)
    moment = now()
    with database.transaction() as connection:
        missing = lacking(connection, study.study_instance_uid, study.expected)
        if not missing:
            pull_rows.fetched(connection, study.id, moment)
            return "fetched"
        over = is_over(study.wanted_at, moment)
        again = None if over else next_attempt(study.attempts, moment, random)
        pull_rows.failed(connection, study.id, problem or f"{missing} instances did not come", again_at=again)
        if over:
            what = {"pull": study.id, "source": source.name, "missing": missing}
            audit_rows.append(connection, at=moment, actor=ACTOR, event="pull_parked", payload=what)
    return "parked" if over else "put_off"


def ask_counts(database: Database, source: str, pacs: Pacs, *, quiet_since: datetime | None, now: datetime) -> int:
    """Ask the PACS what it holds of the studies that are about to be sealed; returns how many it answered for.

    Stops asking at the first question that it does not answer, or not sensibly: then headers and quiet time are the
    evidence, because no trouble with a PACS may keep studies from being sealed. Raises RetryLater for the database.
    """
    with database.read() as connection:
        ripe = study_rows.open_studies(connection, quiet_since=quiet_since)
    answered = 0
    for study_id in ripe:
        with database.read() as connection:
            study_uid, patient = pacs_rows.uid_of(connection, study_id), pacs_rows.patient_of(connection, study_id)
        try:
            said = _announced(source, pacs, study_uid, patient)
        except Exception as error:  # noqa: BLE001 - whatever the PACS or a library does, the study is sealed
            LOGGER.warning("the PACS was not heard before sealing", extra={"error": type(error).__name__})
            break
        if said is None:
            continue
        with database.transaction() as connection:
            pacs_rows.note_answer(connection, study_id, said, now)
        answered += 1
    return answered


def _announced(source: str, pacs: Pacs, study_uid: str, patient: tuple[str | None, str | None]) -> Announcement | None:
    """What the PACS says of a study whose images name that patient (PatientID, issuer); None where it has none."""
    study = pacs.study(study_uid)
    if study is None:
        return None
    series = tuple(
        AnnouncedSeries(uid=found.uid, modality=found.modality, instances=found.instances)
        for found in pacs.series(study_uid)
    )
    return Announcement(source=source, series=series, other_patient=_is_other_patient(study, *patient))


def _is_other_patient(study: PacsStudy, patient_id: str | None, issuer: str | None) -> bool:
    """Whether the PACS names somebody else: after a merge or a correction our images carry the old number."""
    if study.patient_id and patient_id and study.patient_id != patient_id:
        return True
    return bool(study.issuer_of_patient_id and issuer and study.issuer_of_patient_id != issuer)
