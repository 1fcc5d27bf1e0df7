"""UPS-RS (PS3.18 11, IHE AIW-I): the worklist for other systems, which search, claim, read and give back.

What differs from the letter of UPS, because a case must never be lost and never be held for good:

- a claim has the reading room's lease: IN PROGRESS sent again with the same transaction UID lengthens it, and an item
  whose lease has ended, or that a reader of the room gave back, is SCHEDULED again under its UID;
- CANCELED by its holder closes the item and puts a new one for the same case, due at the same time, in its place;
- a request for cancellation is noted in the audit trail and answered 202: the case stays on the worklist;
- COMPLETED needs a coded read in the same request (see `work_item_json.sent_read`), since a read is evidence.

Nothing of the model's answer is told here, before or after a read; there are no subscriptions.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator

from pipeline import outside_reading
from pipeline.dicom.json_model import MEDIA_TYPE, JsonDataset, text
from pipeline.domain.case import ItemState
from pipeline.errors import StaleClaim, UnfinishedRead
from pipeline.web import work_item_json
from pipeline.web.access import FROM_OUTSIDE, Outside, Refused
from pipeline.web.room import Here, Room

MOST_ITEMS = 200  #: of one answer
_JSON_TYPES = (MEDIA_TYPE, "application/json")

router = APIRouter(prefix="/dicom-web/workitems", dependencies=FROM_OUTSIDE)


async def sent_dataset(request: Request) -> JsonDataset:
    """The data set of the body, {} where it is empty. Raises Refused."""
    body = await request.body()
    if not body.strip():
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _JSON_TYPES:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {MEDIA_TYPE}")
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not one data set of the DICOM JSON model")
    return found


ItemId = Annotated[str, Path(), AfterValidator(work_item_json.item_id_of)]  #: the address holds the UID
Sent = Annotated[JsonDataset, Depends(sent_dataset)]


def wanted_state(
    by_keyword: Annotated[str | None, Query(alias="ProcedureStepState")] = None,
    by_tag: Annotated[str | None, Query(alias="00741000")] = None,
) -> ItemState | None:
    """The state that is searched for, None for every one. Raises Refused."""
    name = by_keyword if by_keyword is not None else by_tag
    state = None if name is None else work_item_json.state_named(name)
    if name is not None and state is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "there is no such ProcedureStepState")
    return state


@router.get("")
def search(
    room: Here,
    state: Annotated[ItemState | None, Depends(wanted_state)],
    limit: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Work items in reading order, without the list of their images; other keys than ProcedureStepState match all."""
    now = room.now()
    found = outside_reading.search(room.database, state=state, limit=limit, offset=offset, now=now)
    if not found:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return _answer([work_item_json.work_item(item, now=now) for item in found])


@router.post("")
def create(request: Request, room: Here, sent: Sent) -> Response:
    """Ask for a read of a study; its UID is given here."""
    if request.url.query:
        raise Refused(HTTPStatus.BAD_REQUEST, "work items get their UID here; send none")
    study, protocol = work_item_json.wanted_study(sent)
    made = outside_reading.request(room.database, study, protocol, now=room.now())
    where = f"/dicom-web/workitems/{work_item_json.work_item_uid(made)}"
    return Response(status_code=HTTPStatus.CREATED, headers={"Location": where})


@router.get("/{item}")
def show(room: Here, door: Outside, item: ItemId) -> Response:
    """One work item with its images."""
    found, headers = outside_reading.find(room.database, item)
    return _answer([work_item_json.work_item(found, now=room.now(), headers=headers, retrieve_from=door.retrieve_from)])


@router.put("/{item}/state")
def change_state(room: Here, item: ItemId, sent: Sent) -> Response:
    """Claim, complete with a read, or give back."""
    transaction, state = work_item_json.transaction_uid(sent), text(sent, "ProcedureStepState")
    match work_item_json.state_named(state):
        case ItemState.IN_PROGRESS:
            outside_reading.claim(room.database, item, transaction, lease=room.lease, now=room.now())
        case ItemState.COMPLETED:
            _complete(room, item, transaction, sent)
        case ItemState.CANCELED:
            reason = work_item_json.discontinuation(sent)
            outside_reading.give_back(room.database, item, transaction, reason, now=room.now())
        case _:
            raise Refused(HTTPStatus.BAD_REQUEST, "ProcedureStepState must be IN PROGRESS, COMPLETED or CANCELED")
    return Response(status_code=HTTPStatus.OK)


def _complete(room: Room, item: str, transaction: str, sent: JsonDataset) -> None:
    read = work_item_json.sent_read(sent)
    try:
        outside_reading.commit(
            room.database,
            item,
            transaction,
            read,
            protocols=room.protocols,
            key=room.keys.audit,
            now=room.now(),
        )
    except UnfinishedRead:
        said = "the finding is no class of the protocol, or cannot_be_read lacks its comment, or that is too long"
        raise Refused(HTTPStatus.CONFLICT, said) from None
    except StaleClaim:
        raise Refused(HTTPStatus.CONFLICT, "the hold on this work item has ended") from None


@router.post("/{item}/cancelrequest")
def ask_to_cancel(room: Here, item: ItemId, sent: Sent) -> Response:
    """Note that somebody asked; the case stays on the worklist."""
    outside_reading.ask_to_cancel(room.database, item, work_item_json.discontinuation(sent), now=room.now())
    return Response(status_code=HTTPStatus.ACCEPTED)


def _answer(found: list[JsonDataset]) -> JSONResponse:
    return JSONResponse(found, media_type=MEDIA_TYPE)
