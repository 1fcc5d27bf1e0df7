"""Step 1: take received files in, seal studies that are complete or quiet, open their cases.

Why this order for a file: hash at first touch, durable write, limited inspection, ledger row, commit; only then is the
file confirmed. Whatever a file is, it is kept: quarantine is a verdict with a reason, never a deletion. Names and UIDs
from outside never become paths, and symbolic links are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.announced import Announcement, CountFinding, judge_counts
from pipeline.domain.case import Reason
from pipeline.domain.completeness import seal_evidence
from pipeline.domain.pseudonyms import patient_pseudonym, study_pseudonym
from pipeline.domain.study import InstanceHeader, SealEvidence, StudyState, Verdict
from pipeline.errors import RejectInstance
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, case_rows, instance_rows, pacs_rows, revision_rows, study_rows
from pipeline.store.blobs import BlobStore, Source, Stored
from pipeline.store.database import Database, Transaction
from pipeline.store.instance_rows import Accepted, LedgerEntry
from pipeline.store.received_files import files_under, open_received
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.revision_rows import Member
from pipeline.store.study_rows import Study

ACTOR = "intake"
GROUP = 32
"""Files of a folder that share one commit."""

CONFLICTING_DUPLICATE = "conflicting_duplicate"
IDENTITY_CONFLICT = "identity_conflict"
OWN_RESULT = "own_result"  #: the PACS sent us back what we had sent it: kept, and never taken for an image
_CONFLICTS = (CONFLICTING_DUPLICATE, IDENTITY_CONFLICT)


@dataclass(frozen=True, kw_only=True)
class InstanceNames:
    """The UIDs under which a sender knows an instance."""

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Receipt:
    """What became of one file; it exists only after bytes and row are durable. `study` is our own id of the study.

    A name without bytes of its own (a link, an unreadable file) has a receipt with the reason and no row. `names` is
    None where they could not all be read.
    """

    path: Path
    verdict: Verdict
    reason: str | None
    study: str | None
    names: InstanceNames | None = None


@dataclass(frozen=True, kw_only=True)
class _Received:
    """A file after inspection: stored bytes (None when there were none), header, and why it is refused."""

    path: Path
    stored: Stored | None
    header: InstanceHeader | None = None
    refusal: str | None = None
    is_image: bool = True


@dataclass(frozen=True, kw_only=True)
class _Desk:
    """Where received files are written down."""

    database: Database
    source: str
    pseudonym_key: bytes


def accept_file(
    database: Database,
    blobs: BlobStore,
    sandbox: Sandbox,
    path: Path,
    *,
    source: str,
    pseudonym_key: bytes,
    now: datetime,
) -> Receipt:
    """Take one file in. Raises RetryLater when disk or database are full, busy or away: then nothing was confirmed."""
    desk = _Desk(database=database, source=source, pseudonym_key=pseudonym_key)
    return _record_group(desk, [_receive(blobs, sandbox, path)], now)[0]


def accept_folder(
    database: Database,
    blobs: BlobStore,
    sandbox: Sandbox,
    folder: Path,
    *,
    source: str,
    pseudonym_key: bytes,
    now: Callable[[], datetime],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Receipt]:
    """Take every file under `folder` in; a receipt is handed out only after its group's commit. Raises RetryLater."""
    desk = _Desk(database=database, source=source, pseudonym_key=pseudonym_key)
    blobs.sweep(now())
    paths = files_under(folder)
    for start in range(0, len(paths), GROUP):
        received = [_receive(blobs, sandbox, path) for path in paths[start : start + GROUP]]
        yield from _record_group(desk, received, now())
        on_progress(start + len(received), len(paths))


def accept_stream(
    database: Database,
    blobs: BlobStore,
    sandbox: Sandbox,
    stream: Source,
    *,
    source: str,
    pseudonym_key: bytes,
    now: datetime,
) -> Receipt:
    """Take in what a sender's connection holds, one DICOM file. Raises RetryLater: then nothing was confirmed."""
    desk = _Desk(database=database, source=source, pseudonym_key=pseudonym_key)
    return _record_group(desk, [_inspected(blobs, sandbox, Path(), lambda: nullcontext(stream))], now)[0]


def _receive(blobs: BlobStore, sandbox: Sandbox, path: Path) -> _Received:
    """Store and inspect one file."""
    return _inspected(blobs, sandbox, path, lambda: open_received(path))


def _inspected(
    blobs: BlobStore, sandbox: Sandbox, path: Path, opened: Callable[[], AbstractContextManager[Source]]
) -> _Received:
    stored: Stored | None = None
    try:
        with opened() as source:
            stored = blobs.put_file(source)
        return _Received(path=path, stored=stored, header=sandbox.inspect(blobs.path(stored.sha256)))
    except RefusedInstance as refused:
        return _Received(
            path=path, stored=stored, header=refused.header, refusal=refused.reason, is_image=refused.is_image
        )
    except RejectInstance as refused:
        return _Received(path=path, stored=stored, refusal=refused.reason)


def _record_group(desk: _Desk, received: Sequence[_Received], now: datetime) -> list[Receipt]:
    """Write a group down in one commit; when the database refuses one of it, each in its own."""
    try:
        with desk.database.transaction() as connection:
            return [_record(connection, desk, file, now) for file in received]
    except ConstraintRefused:
        return [_record_alone(desk, file, now) for file in received]


def _record_alone(desk: _Desk, file: _Received, now: datetime) -> Receipt:
    try:
        with desk.database.transaction() as connection:
            return _record(connection, desk, file, now)
    except ConstraintRefused:
        bare = _Received(path=file.path, stored=file.stored, refusal="unrecordable")
        with desk.database.transaction() as connection:
            return _record(connection, desk, bare, now)


def _record(connection: Transaction, desk: _Desk, file: _Received, now: datetime) -> Receipt:
    """One line of the ledger, and what follows from it for the study."""
    if file.stored is None:
        return Receipt(file.path, Verdict.QUARANTINED, file.refusal, None)
    place, is_image = instance_rows.next_place(connection), file.is_image
    same = instance_rows.accepted_bytes(connection, file.stored.sha256) or _same_content(connection, file)
    if same is not None:
        verdict, reason, study_id = Verdict.DUPLICATE, None, same.study_id
    elif file.header is None:
        verdict, reason, study_id = Verdict.QUARANTINED, file.refusal, None
    elif pacs_rows.is_ours(connection, file.header.sop_instance_uid):
        verdict, reason, study_id, is_image = Verdict.QUARANTINED, OWN_RESULT, None, False
    else:
        reason, study_id = _put_to_study(connection, desk, file, file.header, now)
        verdict = Verdict.ACCEPTED if reason is None else Verdict.QUARANTINED
    entry = LedgerEntry(
        sha256=file.stored.sha256,
        size=file.stored.size,
        source=desk.source,
        verdict=verdict,
        is_image=is_image,
        reason=reason,
        study_id=study_id,
        header=file.header,
    )
    instance_rows.add_entry(connection, entry, place=place, now=now)
    return Receipt(file.path, verdict, reason, study_id, _names(file.header))


def _names(header: InstanceHeader | None) -> InstanceNames | None:
    if header is None or not (header.sop_class_uid and header.sop_instance_uid):
        return None
    return InstanceNames(
        study_instance_uid=header.study_instance_uid,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
    )


def _same_content(connection: Transaction, file: _Received) -> Accepted | None:
    """The accepted instance whose data set came in other wrapping before: by another way, with other file meta."""
    header = file.header
    if header is None or file.refusal is not None or header.content_digest is None:
        return None
    other = instance_rows.accepted_uid(connection, header.sop_instance_uid)
    return other if other is not None and other.content_digest == header.content_digest else None


def _put_to_study(
    connection: Transaction, desk: _Desk, file: _Received, header: InstanceHeader, now: datetime
) -> tuple[str | None, str]:
    """Why the instance is quarantined, None when it is accepted, and the id of its study."""
    pseudonym = patient_pseudonym(desk.pseudonym_key, header)
    study = study_rows.find_or_add(connection, header, pseudonym, now)
    begun = instance_rows.has_accepted(connection, study.id)
    unknown = study_pseudonym(desk.pseudonym_key, header.study_instance_uid)
    differs = pseudonym != study.patient_pseudonym
    two_people = differs and unknown not in (pseudonym, study.patient_pseudonym)
    reason = file.refusal or _content_conflict(connection, header, study, now)
    if reason is None and differs and begun:
        reason, two_people = IDENTITY_CONFLICT, True
    if reason is None and differs:
        study_rows.adopt_identity(connection, study.id, header, pseudonym)
    study_rows.note_conflicts(connection, study.id, identities=two_people, contents=reason == CONFLICTING_DUPLICATE)
    if file.is_image or two_people or study.state is StudyState.OPEN:
        _note_arrival(connection, study, now)
    return reason, study.id


def _content_conflict(connection: Transaction, header: InstanceHeader, study: Study, now: datetime) -> str | None:
    """Whether the SOPInstanceUID is known with other bytes; the study that holds them is looked at again too."""
    other = instance_rows.accepted_uid(connection, header.sop_instance_uid)
    if other is None:
        return None
    if other.study_id != study.id:
        study_rows.note_conflicts(connection, other.study_id, contents=True)
        _note_arrival(connection, study_rows.locked_study(connection, other.study_id), now)
    return CONFLICTING_DUPLICATE


def _note_arrival(connection: Transaction, study: Study, now: datetime) -> None:
    study_rows.note_arrival(connection, study.id, now)
    if study.state is StudyState.SEALED:
        audit_rows.append(
            connection,
            at=now,
            actor=ACTOR,
            event="study_reopened",
            study_id=study.id,
            payload={"revision": study.revision},
        )


def seal_quiet_studies(
    database: Database, protocols: Sequence[TriageProtocol], *, quiet: timedelta, now: datetime, force: bool = False
) -> list[str]:
    """Seal studies without an arrival for `quiet` (with `force` every open one) and return the ids of their new cases.

    One transaction a study, one case a protocol. Sealed studies that no protocol was asked about get their cases too.
    """
    quiet_since = None if force else now - quiet
    with database.read() as connection:
        ripe = study_rows.open_studies(connection, quiet_since=quiet_since)
        bare = revision_rows.sealed_without_case(connection) if protocols else []
    cases: list[str] = []
    for study_id in [*ripe, *bare]:
        with database.transaction() as connection:
            cases += _seal(connection, study_id, protocols, quiet_since, now)
    return cases


def _seal(
    connection: Transaction,
    study_id: str,
    protocols: Sequence[TriageProtocol],
    quiet_since: datetime | None,
    now: datetime,
) -> list[str]:
    study = study_rows.locked_study(connection, study_id)
    if study.state is StudyState.SEALED:
        return _open_cases(connection, revision_rows.newest_revision(connection, study_id), protocols, now)
    if quiet_since is not None and study.last_seen_at > quiet_since:
        return []
    members = revision_rows.members_of_study(connection, study_id)
    late = revision_rows.was_decided(connection, study_id)
    announced = pacs_rows.answer(connection, study_id, since=study.last_seen_at)
    evidence = _evidence(
        study,
        members,
        late=late,
        forced=quiet_since is None,
        counted=None if announced is None else _counted(connection, study_id, announced),
        other_patient=announced is not None and announced.other_patient,
    )
    superseded = case_rows.supersede(connection, study_id=study_id, now=now)
    revision = revision_rows.add_revision(
        connection, study_id=study_id, revision=study.revision + 1, evidence=evidence, members=members, now=now
    )
    cases = _open_cases(connection, revision, protocols, now)
    what = {
        "revision": study.revision + 1,
        "manifest_digest": revision.manifest_digest,
        "completeness": evidence.completeness,
        "problems": evidence.problems,
        "superseded": superseded,
        "cases": cases,
    }
    audit_rows.append(connection, at=now, actor=ACTOR, event="study_sealed", study_id=study_id, payload=what)
    return cases


def _counted(connection: Transaction, study_id: str, announced: Announcement) -> CountFinding:
    held = pacs_rows.received_by_series(connection, study_id)
    return judge_counts(announced, held, pacs_rows.own_series(connection, study_id))


def _evidence(
    study: Study,
    members: Sequence[Member],
    *,
    late: bool,
    forced: bool,
    counted: CountFinding | None,
    other_patient: bool,
) -> SealEvidence:
    accepted = [m.header for m in members if m.verdict is Verdict.ACCEPTED and m.header is not None]
    uids = {header.sop_instance_uid for header in accepted}
    refused = [m for m in members if m.verdict is Verdict.QUARANTINED and m.is_image]
    conflicts = [m for m in refused if m.reason in _CONFLICTS]
    unreadable = [m for m in refused if m.reason not in _CONFLICTS and m.sop_instance_uid not in uids]
    found = {
        Reason.IDENTITY_CONFLICT: study.identity_conflict or other_patient,
        Reason.CONFLICTING_INSTANCE: study.content_conflict,
        Reason.LATE_DATA: late,
    }
    return seal_evidence(
        accepted,
        quarantined=len(unreadable) + len(conflicts),
        unreadable=len(unreadable),
        problems=[reason for reason, true in found.items() if true],
        forced=forced,
        counted=counted,
    )


def _open_cases(
    connection: Transaction,
    revision: revision_rows.SealedRevision,
    protocols: Sequence[TriageProtocol],
    now: datetime,
) -> list[str]:
    """One case a protocol, none where the revision has one already."""
    asked = case_rows.protocols_of(connection, revision.id)
    return [
        case_rows.open_case(
            connection,
            study_id=revision.study_id,
            revision_id=revision.id,
            protocol=protocol.name,
            protocol_digest=case_rows.register_protocol(
                connection,
                digest=protocol.digest,
                name=protocol.name,
                content=protocol.model_dump(mode="json"),
                now=now,
            ),
            now=now,
        )
        for protocol in protocols
        if protocol.name not in asked
    ]
