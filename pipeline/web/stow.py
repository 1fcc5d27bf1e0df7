"""STOW-RS (PS3.18 10.5): studies brought by HTTP go through the same intake as those of the DICOM node.

An instance is reported as stored only after its bytes and its row are durable, and nothing that was received whole is
thrown away, whatever is reported:

- accepted, or known already: stored, without a remark;
- quarantined under its own UIDs: stored with WarningReason B007, because its bytes are kept and not looked at further;
- of another study than the address names: FailureReason A900, and kept in the study that it names itself;
- without UIDs that can be read: an item of OtherFailuresSequence, FailureReason C000, and kept in quarantine.

Where disk or database cannot take more the answer is 503 with what was stored until then; the sender sends all again,
and what was stored is a duplicate. Nothing is parsed in this process: the limited child does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import IO, Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pipeline.dicom.json_model import MEDIA_TYPE, JsonDataset, json_dataset
from pipeline.errors import RetryLater
from pipeline.intake import InstanceNames, Receipt, accept_stream
from pipeline.web.access import FROM_OUTSIDE, Outside, Refused
from pipeline.web.door import Door
from pipeline.web.hardening import allow_body
from pipeline.web.related_parts import RelatedParts, boundary_of
from pipeline.web.room import Here, Room

SOURCE = "stow"
LARGEST_DELIVERY = 4 << 30  #: bytes of one request
KEPT_APART = 0xB007  #: warning: data set does not match SOP class; the nearest that PS3.18 table I.2-1 has
OTHER_STUDY = 0xA900  #: failure: data set does not match what was announced
NOT_UNDERSTOOD = 0xC000

router = APIRouter(prefix="/dicom-web", dependencies=FROM_OUTSIDE)
StudyUid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is reported of one part; `names` is None when its UIDs could not be read."""

    names: InstanceNames | None
    failure: int | None = None
    warning: int | None = None


@dataclass(kw_only=True)
class Delivery:
    """One request on its way in: each part through the intake, and what became of it."""

    room: Room
    door: Door
    study: str | None
    outcomes: list[Outcome] = field(default_factory=list)

    def take(self, part: IO[bytes]) -> None:
        """One part through the intake. Raises RetryLater: then nothing of it was kept."""
        receipt = accept_stream(
            self.room.database,
            self.room.blobs,
            self.door.sandbox,
            part,
            source=SOURCE,
            pseudonym_key=self.door.pseudonym_key,
            now=self.room.now(),
        )
        self.outcomes.append(outcome(receipt, self.study))


def outcome(receipt: Receipt, study: str | None) -> Outcome:
    """What is reported of a part that is durable; `study` is the one the address names."""
    names = receipt.names
    if names is None:
        return Outcome(names=None, failure=NOT_UNDERSTOOD)
    if study is not None and names.study_instance_uid != study:
        return Outcome(names=names, failure=OTHER_STUDY)
    return Outcome(names=names, warning=None if receipt.reason is None else KEPT_APART)


@router.post("/studies")
async def store_studies(request: Request, room: Here, door: Outside) -> JSONResponse:
    """Take in instances of any study."""
    return await _store(request, Delivery(room=room, door=door, study=None))


@router.post("/studies/{study}")
async def store_study(request: Request, room: Here, door: Outside, study: StudyUid) -> JSONResponse:
    """Take in instances of this study."""
    return await _store(request, Delivery(room=room, door=door, study=study))


async def _store(request: Request, delivery: Delivery) -> JSONResponse:
    boundary = boundary_of(request.headers.get("content-type", ""))
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > LARGEST_DELIVERY:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large; send the study in several requests")
    if not delivery.door.senders.acquire(blocking=False):
        raise RetryLater("too many send at once")
    try:
        return await _receive(request, delivery, boundary)
    finally:
        delivery.door.senders.release()


async def _receive(request: Request, delivery: Delivery, boundary: str) -> JSONResponse:
    allow_body(request, LARGEST_DELIVERY)
    with RelatedParts(boundary, delivery.take, folder=delivery.door.spool) as parts:
        try:
            async for chunk in request.stream():
                await run_in_threadpool(partial(parts.feed, chunk))
            parts.finish()
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body was cut short") from None
        except RetryLater:
            return _answer(delivery.outcomes, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "30"})
    return _answer(delivery.outcomes, status_of(delivery.outcomes))


def status_of(outcomes: Sequence[Outcome]) -> HTTPStatus:
    """200 when everything was stored without a remark, 409 when nothing was stored as asked, else 202."""
    if all(one.failure is None and one.warning is None for one in outcomes):
        return HTTPStatus.OK
    return HTTPStatus.CONFLICT if all(one.failure is not None for one in outcomes) else HTTPStatus.ACCEPTED


def _answer(outcomes: Sequence[Outcome], status: HTTPStatus, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(report(outcomes), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def report(outcomes: Sequence[Outcome]) -> JsonDataset:
    """The Store Instances response (PS3.18 annex I); sequences without items are left out."""
    stored = [_item(one, WarningReason=one.warning) for one in outcomes if one.failure is None]
    failed = [_item(one, FailureReason=one.failure) for one in outcomes if one.failure is not None and one.names]
    others = [json_dataset(FailureReason=one.failure) for one in outcomes if one.names is None]
    sequences = {"ReferencedSOPSequence": stored, "FailedSOPSequence": failed, "OtherFailuresSequence": others}
    return json_dataset(RetrieveURL=None, **{name: items for name, items in sequences.items() if items})


def _item(one: Outcome, **remark: int | None) -> JsonDataset:
    said = {keyword: code for keyword, code in remark.items() if code is not None}
    names = one.names
    if names is None:
        return json_dataset(**said)
    return json_dataset(
        ReferencedSOPClassUID=names.sop_class_uid, ReferencedSOPInstanceUID=names.sop_instance_uid, **said
    )
