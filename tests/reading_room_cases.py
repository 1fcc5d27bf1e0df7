"""Decided cases for the reading room's tests, written through the store's own functions, with small real DICOM files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx import Response
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import ROUTINE_GUARDS
from pipeline.domain.evidence import (
    Analysis,
    Decision,
    Evidence,
    NoveltySummary,
    Policy,
    ScopeVerdict,
    UncertaintySummary,
)
from pipeline.domain.study import Completeness, SealEvidence, Verdict
from pipeline.protocol import TriageProtocol, load_protocol
from pipeline.store import (
    account_rows,
    case_rows,
    decision_rows,
    instance_rows,
    revision_rows,
    session_rows,
    study_rows,
    worklist_rows,
)
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web.app import create_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the test client asks for another HTTP library than the one that is pinned
    from fastapi.testclient import TestClient

NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
ORIGIN = "http://localhost"
PASSWORD = "a long enough password"
RELEASE = "9f" * 32
PLANTED = (0.61737, 0.38263, 0.41414, 0.31313, 0.02929, 0.07171, 0.57575, 0.66161, 0.12121, 0.83838)
"""Numbers of the model's answer that nothing may show before the read is committed."""


class Clock:
    """A clock that tests move."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **step: float) -> None:
        self.now += timedelta(**step)


def mr_series(
    *, slices: int = 3, size: int = 16, name: str = "Doe^Jane", missing: Sequence[int] = (), description: str = "AX T1"
) -> list[bytes]:
    """A small axial MR series; the pixel at row r, column c of slice s holds 1000 s + 10 r + c."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    rows, columns = np.mgrid[0:size, 0:size]
    made = []
    for index in range(slices):
        if index in missing:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", _attributes(index, size, name, description), file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PixelData = (1000 * index + 10 * rows + columns).astype("<u2").tobytes()
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        made.append(buffer.getvalue())
    return made


def _attributes(index: int, size: int, name: str, description: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality, dataset.BodyPartExamined = "MR", "BRAIN"
    dataset.PatientName, dataset.PatientID = name, "MRN-4711"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19700203", "F", "056Y"
    dataset.AccessionNumber, dataset.StudyDate, dataset.StudyTime = "ACC-1", "20260313", "221500"
    dataset.StudyDescription, dataset.SeriesDescription = "MR head", description
    dataset.SeriesNumber, dataset.InstanceNumber = 3, index + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Manufacturer, dataset.ManufacturerModelName = "Phantom", "P1"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [1.0, 1.0], 5.0, 5.0
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-8, -8, 5.0 * index]
    return dataset


def protocol(name: str = "brain-tumour-mr", *, fewest: int = 2) -> TriageProtocol:
    """The shipped protocol, for series as short as the tests' own."""
    shipped = load_protocol(name)
    return shipped.model_copy(update={"series": shipped.series.model_copy(update={"slices": (fewest, 400)})})


def analysis() -> Analysis:
    """A model's answer made of planted numbers."""
    return Analysis(
        uncertainty=UncertaintySummary(
            classes=("no_tumour", "tumour"),
            probabilities=(PLANTED[0], PLANTED[1]),
            route_score=PLANTED[1],
            predictive_entropy=PLANTED[2],
            expected_entropy=PLANTED[3],
            mi_dropout=PLANTED[4],
            mi_member=PLANTED[5],
            mutual_information=PLANTED[4] + PLANTED[5],
            members=5,
            passes=20,
            budget=20,
            stop="budget",
            samples_digest="ab" * 32,
            member_scores=(PLANTED[6], 0.2, 0.3, 0.4, 0.5),
        ),
        novelty=NoveltySummary(p_values=(("features", PLANTED[7]),), combined=PLANTED[7]),
        depths=(20,),
    )


def policy(protocol_digest: str) -> Policy:
    """A policy made of planted thresholds."""
    return Policy(
        release_digest=RELEASE,
        protocol_digest=protocol_digest,
        members=5,
        passes=20,
        routine_below=PLANTED[8],
        priority_above=PLANTED[9],
        mutual_information_limit=0.05,
        novelty_level=0.02,
        certificate_expires=date(2027, 1, 1),
        sampling="fixed",
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A case to be made; without `item_reasons` no read is asked for."""

    route: Route = Route.REVIEW
    reasons: tuple[Reason, ...] = (Reason.UNCERTAIN,)
    item_reasons: tuple[str, ...] | None = (Reason.UNCERTAIN,)
    priority: int = 1
    specialty: str = "neuroradiology"
    audit: bool = False
    age: timedelta = timedelta(minutes=30)
    wait: timedelta = timedelta(hours=4)
    completeness: Completeness = Completeness.PROVEN
    detail: str = "numbering and positions leave no gap and the sender was quiet"
    problems: tuple[tuple[Reason, str], ...] = ()
    answered: bool = True


ROUTINE = Wanted(route=Route.ROUTINE, reasons=(Reason.CONFIDENT_ABSENCE,), item_reasons=None)
AUDIT = replace(ROUTINE, item_reasons=(Reason.UNCERTAIN,), audit=True)
PRIORITY = Wanted(
    route=Route.PRIORITY,
    reasons=(Reason.CONFIDENT_FINDING,),
    item_reasons=(Reason.CONFIDENT_FINDING,),
    priority=2,
    wait=timedelta(hours=1),
)


def add_case(
    database: Database,
    blobs: BlobStore,
    wanted: Wanted,
    *,
    files: Sequence[bytes] | None = None,
    rules: TriageProtocol | None = None,
    now: datetime = NOW,
) -> str:
    """Take files in, seal, decide and schedule, and return the case's id."""
    rules = rules or protocol()
    data = mr_series() if files is None else files
    at = now - wanted.age
    headers = [inspect_instance(one) for one in data]
    with database.transaction() as connection:
        study = study_rows.find_or_add(connection, headers[0], "pseudonym", at)
        for one, header in zip(data, headers, strict=True):
            entry = instance_rows.LedgerEntry(
                sha256=blobs.put(one),
                size=len(one),
                source="test",
                verdict=Verdict.ACCEPTED,
                is_image=True,
                study_id=study.id,
                header=header,
            )
            instance_rows.add_entry(connection, entry, place=instance_rows.next_place(connection), now=at)
        seal = SealEvidence(
            completeness=wanted.completeness,
            kind="gap_check",
            detail=wanted.detail,
            instances=len(data),
            series=len({header.series_instance_uid for header in headers}),
            quarantined=0,
        )
        sealed = revision_rows.add_revision(
            connection,
            study_id=study.id,
            revision=study.revision + 1,
            evidence=seal,
            members=revision_rows.members_of_study(connection, study.id),
            now=at,
        )
        case_rows.register_protocol(
            connection, digest=rules.digest, name=rules.name, content=rules.model_dump(mode="json"), now=at
        )
        case_id = case_rows.open_case(
            connection,
            study_id=study.id,
            revision_id=sealed.id,
            protocol=rules.name,
            protocol_digest=rules.digest,
            now=at,
        )
        (claimed,) = case_rows.claim_cases(
            connection, protocol=rules.name, owner="test", limit=1, lease=timedelta(minutes=1), now=at
        )
        evidence = Evidence(
            scope=ScopeVerdict(in_scope=wanted.route is not Route.OUT_OF_SCOPE),
            seal=seal,
            manifest_slices=len(data),
            decoded_slices=len(data),
            problems=wanted.problems,
            analysis=analysis() if wanted.answered else None,
            release_digest=RELEASE,
            protocol_digest=rules.digest,
            safe_state=False,
        )
        speaks = wanted.route is Route.ROUTINE
        guards = tuple((name, speaks or name != "certain") for name in ROUTINE_GUARDS)
        record = decision_rows.DecisionRecord(
            case_id=case_id,
            decision=Decision(route=wanted.route, reasons=wanted.reasons, guards=guards),
            evidence=evidence,
            policy=policy(rules.digest),
            protocol_digest=rules.digest,
            manifest_digest=sealed.manifest_digest,
            fingerprint={"torch": "2"},
            audit=wanted.audit,
            fence=claimed.fence,
            decided_at=at,
        )
        decision_rows.record_decision(connection, record)
        case_rows.finish(connection, case_id=case_id, owner="test", fence=claimed.fence, now=at)
        if wanted.item_reasons is not None:
            worklist_rows.schedule_item(
                connection,
                case_id=case_id,
                specialty=wanted.specialty,
                priority=wanted.priority,
                reasons=wanted.item_reasons,
                due_at=at + wanted.wait,
                now=at,
            )
    return case_id


@cache
def _hash_of_password() -> str:
    return PasswordHasher().hash(PASSWORD)


def add_account(
    database: Database,
    name: str = "dr.okafor",
    *,
    role: str = "reader",
    specialties: Sequence[str] = ("neuroradiology",),
) -> str:
    """An account with the tests' password, hashed once for all of them."""
    known = mock.patch.object(account_rows, "_hash", return_value=_hash_of_password())
    with known, database.transaction() as connection:
        return account_rows.create_account(
            connection, name=name, password=PASSWORD, role=role, specialties=specialties, now=NOW - timedelta(days=1)
        )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A browser-like client of one room, signed in or not."""

    client: TestClient
    token: str = ""

    def get(self, path: str) -> Response:
        return self.client.get(path)

    def post(self, path: str, **fields: object) -> Response:
        """A form sent from our own page."""
        return self.client.post(path, data={"csrf_token": self.token, **fields}, headers={"Origin": ORIGIN})

    def send(self, path: str, **content: object) -> Response:
        """A request of a program."""
        return self.client.post(path, json=content, headers={"Origin": ORIGIN, "X-CSRF-Token": self.token})


def make_room(database: Database, blobs: BlobStore, sandbox: Sandbox, clock: Clock, **more: Any) -> FastAPI:
    """The application on a test's database and clock."""
    return create_app(
        database=database,
        blobs=blobs,
        sandbox=sandbox,
        protocols={"brain-tumour-mr": protocol()},
        session_key=more.pop("session_key", b"k" * 32),
        now=clock,
        **more,
    )


def visitor(app: FastAPI) -> Desk:
    """A client without a session."""
    return Desk(client=TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False))


def seat(app: FastAPI, database: Database, name: str = "dr.okafor", **account: Any) -> Desk:
    """A client with a live session of a new account, without the time that a password check takes."""
    room = app.state.room
    account_id = add_account(database, name, **account)
    with database.transaction() as connection:
        value = session_rows.open_session(connection, account_id=account_id, now=room.now())
    with database.read() as connection:
        session = session_rows.find_session(
            connection, token=value, now=room.now(), idle=room.idle, absolute=room.absolute
        )
    assert session is not None
    desk = visitor(app)
    desk.client.cookies.set(room.cookie_name, value)
    return replace(desk, token=session.csrf_token)
