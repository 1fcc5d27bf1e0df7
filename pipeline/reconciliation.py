"""What the PACS has against what we have: every study and instance that never came is named, and somebody is told.

Pulling asks about the last days again and again; this asks about a longer window, whatever way studies come in, and
believes neither its own cursor nor any sender.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.dicom.pacs import Pacs
from pipeline.domain.announced import NOT_IMAGES
from pipeline.store import audit_rows, pacs_rows, reconciliation_rows
from pipeline.store.database import Database

ACTOR = "reconciliation"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a window of the PACS' list holds that the ledger does not: studies, and instances of studies we know."""

    studies: int
    missing_studies: tuple[str, ...]
    missing_instances: dict[str, tuple[str, ...]]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing_studies and not self.missing_instances


def reconcile(
    database: Database,
    pacs: Pacs,
    source: str,
    modalities: Iterable[str],
    *,
    window: timedelta,
    now: datetime,
) -> Difference:
    """Compare the PACS' list of the last `window` with the ledger, write the difference down and alarm.

    Raises RetryLater when the PACS or the database does not answer: a comparison is whole or none.
    """
    wanted, since = frozenset(modalities), now - window
    listed = [study.uid for study in pacs.studies(since, now) if not study.modalities or wanted & {*study.modalities}]
    missing_studies: list[str] = []
    missing_instances: dict[str, tuple[str, ...]] = {}
    for study_uid in listed:
        lost, known = _missing(database, pacs, study_uid)
        if lost and not known:
            missing_studies.append(study_uid)
        elif lost:
            missing_instances[study_uid] = lost
    found = Difference(studies=len(listed), missing_studies=tuple(missing_studies), missing_instances=missing_instances)
    _write_down(database, source, found, since, now)
    return found


def _missing(database: Database, pacs: Pacs, study_uid: str) -> tuple[tuple[str, ...], bool]:
    """Instances of image series that never came, and whether the study is known at all."""
    with database.read() as connection:
        known = pacs_rows.study_ids(connection, [study_uid]).get(study_uid)
        held = set() if known is None else pacs_rows.held_instances(connection, known)
        ours = () if known is None else pacs_rows.own_series(connection, known)
    series = [found for found in pacs.series(study_uid) if found.modality not in NOT_IMAGES and found.uid not in ours]
    there = {sop for found in series for sop in pacs.instances(study_uid, found.uid)}
    return tuple(sorted(there - held)), known is not None


def _write_down(database: Database, source: str, found: Difference, since: datetime, now: datetime) -> None:
    with database.transaction() as connection:
        reconciliation_rows.add(
            connection,
            source=source,
            since=since,
            until=now,
            studies=found.studies,
            missing_studies=found.missing_studies,
            missing_instances=found.missing_instances,
            now=now,
        )
        if found.is_whole:
            return
        counts = {
            "source": source,
            "studies": len(found.missing_studies),
            "instances": sum(map(len, found.missing_instances.values())),
        }
        audit_rows.append(connection, at=now, actor=ACTOR, event="images_missing", payload=counts)
