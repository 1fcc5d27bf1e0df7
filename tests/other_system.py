"""Another system with the agreed token: what it asks of the worklist, and how it codes a read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from httpx import Response
from pydicom import Dataset
from sqlalchemy import select

from pipeline.dicom.sandbox import Sandbox
from pipeline.store import audit_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.tables import audit_event, case, study
from pipeline.web.door import Door
from tests.live_room import BEARER, TOKEN
from tests.reading_room_cases import Clock, make_room

BASE = "/dicom-web/workitems"
OURS, THEIRS = "1.2.840.99.1", "1.2.840.99.2"
JSON = {"Content-Type": "application/dicom+json"}


@contextmanager
def open_room(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    """A room whose door is open."""
    with Sandbox() as sandbox:
        door = Door(
            token=TOKEN, pseudonym_key=b"k" * 32, sandbox=sandbox, retrieve_from="https://pacs.example/dicom-web"
        )
        yield make_room(database, blobs, sandbox, clock, door=door)


@dataclass(frozen=True)
class System:
    """Another system with the agreed token."""

    client: Any

    def ask(self, method: str, path: str = "", content: Any = None, **headers: str) -> Response:
        sent = None if content is None else json.dumps(content)
        found: Response = self.client.request(method, BASE + path, content=sent, headers=BEARER | JSON | headers)
        return found

    def items(self, query: str = "") -> list[Dataset]:
        answer = self.ask("GET", query)
        assert answer.status_code in {200, 204}
        return [Dataset.from_json(one) for one in answer.json()] if answer.status_code == 200 else []

    def uid(self, query: str = "?ProcedureStepState=SCHEDULED") -> str:
        (item,) = self.items(query)
        return str(item.SOPInstanceUID)

    def state(self, uid: str) -> str:
        (found,) = self.ask("GET", f"/{uid}").json()
        return str(Dataset.from_json(found).ProcedureStepState)

    def change(self, uid: str, state: str, transaction: str = OURS, **more: Any) -> int:
        content = dataset(ProcedureStepState=state, TransactionUID=transaction, **more)
        return self.ask("PUT", f"/{uid}/state", [content]).status_code


def dataset(**values: Any) -> dict[str, Any]:
    """A data set as pydicom writes it in the JSON model."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return dict(made.to_json_dict())


def coded(value: str, scheme: str = "99SECONDREAD") -> Dataset:
    found = Dataset()
    setattr(found, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    found.CodingSchemeDesignator, found.CodeMeaning = scheme, value
    return found


def a_read(*codes: str, reader: str = "Weiss^Anna", comment: str = "", scheme: str = "99SECONDREAD") -> list[Dataset]:
    """UnifiedProcedureStepPerformedProcedureSequence with a read in it."""
    performed, performer = Dataset(), Dataset()
    performer.HumanPerformerName = reader
    performed.PerformedWorkitemCodeSequence = [coded(code, scheme) for code in codes]
    performed.ActualHumanPerformersSequence = [performer] if reader else []
    performed.CommentsOnThePerformedProcedureStep = comment
    return [performed]


def complete(system: System, uid: str, *codes: str, transaction: str = OURS, **more: Any) -> int:
    said = a_read(*(codes or ("tumour", "certainty_4")), **more)
    return system.change(uid, "COMPLETED", transaction, UnifiedProcedureStepPerformedProcedureSequence=said)


def asked_study(uid: str, **more: Any) -> dict[str, Any]:
    wanted = Dataset()
    wanted.StudyInstanceUID = uid
    return dataset(ReferencedRequestSequence=[wanted], **more)


def events(database: Database, event: str) -> list[dict[str, Any]]:
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []
        rows = connection.execute(select(audit_event.c.payload).where(audit_event.c.event == event))
        return [json.loads(payload) for payload in rows.scalars()]


def study_of(database: Database, case_id: str) -> str:
    with database.read() as connection:
        query = select(study.c.study_instance_uid).join(case, case.c.study_id == study.c.id)
        return str(connection.execute(query.where(case.c.id == case_id)).scalar_one())
