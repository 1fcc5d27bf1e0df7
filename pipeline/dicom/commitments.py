"""Storage Commitment Push Model (PS3.4 annex J): what is asked for, and the true answer on an association of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from pipeline.dicom import attributes
from pipeline.dicom.application_entity import application_entity
from pipeline.errors import RejectInstance, RetryLater

MOST_ITEMS: Final = 100_000
ALL_KEPT: Final = 1
SOME_FAILED: Final = 2


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """Who asks under which transaction for the safekeeping of which instances (SOP class UID, SOP instance UID)."""

    transaction_uid: str
    peer: str
    asked: tuple[tuple[str, str], ...]


def asked_for(action: Dataset, peer: str) -> CommitmentRequest:
    """The request in an N-ACTION's action information. Raises RejectInstance where it is none."""
    transaction = attributes.uid(action, "TransactionUID") or ""
    items = attributes.items(action, "ReferencedSOPSequence")
    asked = tuple(
        (attributes.uid(item, "ReferencedSOPClassUID") or "", attributes.uid(item, "ReferencedSOPInstanceUID") or "")
        for item in items[:MOST_ITEMS]
    )
    valid = attributes.is_uid(transaction) and all(attributes.is_uid(uid) for pair in asked for uid in pair)
    if not asked or not valid or len(items) > MOST_ITEMS:
        raise RejectInstance("invalid_commitment", "a storage commitment names no transaction or no instances")
    return CommitmentRequest(transaction_uid=transaction, peer=peer, asked=asked)


def send_answer(
    request: CommitmentRequest,
    failures: Mapping[str, int],
    *,
    own_title: str,
    address: tuple[str, int],
    seconds: float = 10.0,
) -> None:
    """Tell the peer what is kept; `failures` are reasons (PS3.3 C.14.1.1) by SOP instance UID. Raises RetryLater."""
    entity = application_entity(own_title, seconds=seconds)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    contexts = [build_context(StorageCommitmentPushModel)]
    try:
        association = entity.associate(*address, contexts=contexts, ae_title=request.peer, ext_neg=[role])
    except OSError as error:
        raise RetryLater(
            f"the peer that asked for storage commitment cannot be reached ({type(error).__name__})"
        ) from None
    if not association.is_established:
        raise RetryLater("the peer that asked for storage commitment does not take the answer's association")
    try:
        event = SOME_FAILED if failures else ALL_KEPT
        status, _ = association.send_n_event_report(
            _answer(request, failures), event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError) as error:
        raise RetryLater(f"the answer to a storage commitment was not sent ({type(error).__name__})") from error
    finally:
        association.release()
    if getattr(status, "Status", None) != 0x0000:
        raise RetryLater("the peer did not confirm the answer to its storage commitment")


def _answer(request: CommitmentRequest, failures: Mapping[str, int]) -> Dataset:
    answer = Dataset()
    answer.TransactionUID = request.transaction_uid
    kept = [pair for pair in request.asked if pair[1] not in failures]
    lost = [pair for pair in request.asked if pair[1] in failures]
    if kept:
        answer.ReferencedSOPSequence = _items(kept)
    if lost:
        answer.FailedSOPSequence = _items(lost)
        for item in answer.FailedSOPSequence:
            item.FailureReason = failures[item.ReferencedSOPInstanceUID]
    return answer


def _items(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    items = []
    for sop_class, sop_instance in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        items.append(item)
    return items
