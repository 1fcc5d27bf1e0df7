"""A worklist item as a UPS work item (PS3.3 C.30, IHE AIW-I) in the DICOM JSON model, and what other systems write in one.

A UID is 2.25 and the item's own id, which is a UUID (PS3.5 B.2): it is the same for ever and leads back to its row. What
a read says is coded in our own scheme, because UPS has no place for findings; see `sent_read`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final

from pipeline.dicom.json_model import JsonDataset, items, json_dataset, text
from pipeline.domain.case import ItemState
from pipeline.review import CANNOT_BE_READ, Read
from pipeline.store.work_item_rows import WorkItem
from pipeline.web import words
from pipeline.web.access import Refused

SCHEME: Final = "99SECONDREAD"
UNSPECIFIED: Final = "110513"  #: CID 9300: discontinued for unspecified reason
_UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
_PRIORITIES: Final = {2: "HIGH", 1: "MEDIUM", 0: "LOW"}
_STATES: Final = {state: state.value.replace("_", " ") for state in ItemState}
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_REASON_CODE: Final = re.compile(r"[0-9]{6}")
_CERTAINTY: Final = re.compile(r"certainty_([1-5])")
_SHORT: Final = 16  #: characters of a CodeValue; longer ones are LongCodeValue
_LABEL: Final = 64  #: characters of a label


def work_item_uid(item_id: str) -> str:
    """The SOP Instance UID of an item."""
    return f"2.25.{int(item_id, 16)}"


def item_id_of(uid: str) -> str:
    """The id of the item that has this UID; "" where none can have it."""
    head, _, number = uid.rpartition(".")
    if head != "2.25" or not number.isdecimal() or len(number) > 39:
        return ""
    found = f"{int(number):032x}"
    return found if work_item_uid(found) == uid else ""


def state_named(name: str) -> ItemState | None:
    """The state of that DICOM name, or None."""
    return next((state for state, known in _STATES.items() if known == name), None)


def work_item(
    item: WorkItem, *, now: datetime, headers: Sequence[Mapping[str, Any]] = (), retrieve_from: str | None = None
) -> JsonDataset:
    """One work item; with the `headers` of its images it says which they are and where they can be fetched."""
    line, person = item.line, item.line.person
    return json_dataset(
        SOPClassUID=_UPS_PUSH,
        SOPInstanceUID=work_item_uid(item.id),
        ProcedureStepState=_STATES[_state(item, now)],
        PatientName=person["patient_name"],
        PatientID=person["patient_id"],
        IssuerOfPatientID=person["issuer_of_patient_id"],
        PatientBirthDate=person["patient_birth_date"],
        PatientSex=person["patient_sex"],
        AdmissionID=None,
        ScheduledProcedureStepPriority=_PRIORITIES.get(1 if line.priority is None else line.priority, "MEDIUM"),
        WorklistLabel=line.protocol[:_LABEL],
        ProcedureStepLabel=item.question[:_LABEL],
        ScheduledWorkitemCodeSequence=[_code("110005", "DCM", "Interpretation")],
        ScheduledHumanPerformersSequence=[_performer(str(line.specialty))],
        ScheduledStationNameCodeSequence=None,
        ScheduledProcedureStepStartDateTime=_moment(line.created_at),
        ExpectedCompletionDateTime=_moment(line.due_at),
        InputReadinessState="READY",
        InputInformationSequence=_inputs(item, headers, retrieve_from),
        CommentsOnTheScheduledProcedureStep=" ".join(words.sentence(reason) for reason in line.reasons),
        ReferencedRequestSequence=[_request(item)],
    )


def _state(item: WorkItem, now: datetime) -> ItemState:
    """An item whose holder's lease has ended is free again, and says so."""
    state, until = ItemState(str(item.line.state)), item.line.lease_until
    return ItemState.SCHEDULED if state is ItemState.IN_PROGRESS and (until is None or until <= now) else state


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _code(value: str, scheme: str, meaning: str) -> JsonDataset:
    place = {"CodeValue" if len(value) <= _SHORT else "LongCodeValue": value}
    return json_dataset(CodingSchemeDesignator=scheme, CodeMeaning=meaning, **place)


def _performer(specialty: str) -> JsonDataset:
    return json_dataset(
        HumanPerformerCodeSequence=[_code(specialty, SCHEME, words.plain(specialty))], HumanPerformerName=None
    )


def _request(item: WorkItem) -> JsonDataset:
    return json_dataset(
        StudyInstanceUID=item.study_instance_uid,
        AccessionNumber=item.line.person["accession_number"],
        RequestedProcedureID=None,
        RequestedProcedureDescription=None,
        RequestedProcedureCodeSequence=None,
    )


def _inputs(item: WorkItem, headers: Sequence[Mapping[str, Any]], retrieve_from: str | None) -> list[JsonDataset]:
    series = sorted(headers, key=_series_of)
    where = _retrieval(item.study_instance_uid, retrieve_from)
    return [
        json_dataset(
            TypeOfInstances="DICOM",
            StudyInstanceUID=item.study_instance_uid,
            SeriesInstanceUID=uid,
            ReferencedSOPSequence=[_instance(header) for header in of_series],
            **where,
        )
        for uid, of_series in groupby(series, key=_series_of)
    ]


def _series_of(header: Mapping[str, Any]) -> str:
    return str(header["series_instance_uid"])


def _instance(header: Mapping[str, Any]) -> JsonDataset:
    return json_dataset(
        ReferencedSOPClassUID=header["sop_class_uid"], ReferencedSOPInstanceUID=header["sop_instance_uid"]
    )


def _retrieval(study_uid: str, retrieve_from: str | None) -> dict[str, list[JsonDataset]]:
    if retrieve_from is None:
        return {}
    if retrieve_from.startswith(("http://", "https://")):
        return {"WADORSRetrievalSequence": [json_dataset(RetrieveURL=f"{retrieve_from}/studies/{study_uid}")]}
    return {"DICOMRetrievalSequence": [json_dataset(RetrieveAETitle=retrieve_from)]}


def wanted_study(sent: JsonDataset) -> tuple[str, str]:
    """The study that a read is asked for, and the protocol ("" when not named). Raises Refused."""
    places = [*items(sent, "ReferencedRequestSequence"), *items(sent, "InputInformationSequence")]
    named = {text(place, "StudyInstanceUID") for place in places} - {""}
    if len(named) != 1:
        asked = "name one study by StudyInstanceUID in ReferencedRequestSequence or InputInformationSequence"
        raise Refused(HTTPStatus.BAD_REQUEST, asked)
    return named.pop(), text(sent, "WorklistLabel")


def transaction_uid(sent: JsonDataset) -> str:
    """The transaction UID that a change of state carries. Raises Refused without one."""
    found = text(sent, "TransactionUID")
    if len(found) > 64 or not _UID.fullmatch(found):
        raise Refused(HTTPStatus.BAD_REQUEST, "TransactionUID is absent or no UID")
    return found


def discontinuation(sent: JsonDataset) -> str:
    """The code of CID 9300 that says why; words are not taken over, because they may tell who the patient is."""
    places = [sent, *items(sent, "ProcedureStepProgressInformationSequence")]
    codes = [code for place in places for code in items(place, "ProcedureStepDiscontinuationReasonCodeSequence")]
    value = next((text(code, "CodeValue") for code in codes), "")
    return value if _REASON_CODE.fullmatch(value) else UNSPECIFIED


def sent_read(sent: JsonDataset) -> Read:
    """The read in UnifiedProcedureStepPerformedProcedureSequence. Raises Refused where it lacks something.

    PerformedWorkitemCodeSequence holds two codes of the scheme 99SECONDREAD: a class of the protocol or cannot_be_read,
    and certainty_1 (a guess) to certainty_5 (sure). ActualHumanPerformersSequence names who read;
    CommentsOnThePerformedProcedureStep is the comment.
    """
    performed = next(iter(items(sent, "UnifiedProcedureStepPerformedProcedureSequence")), {})
    codes = [_own_value(code) for code in items(performed, "PerformedWorkitemCodeSequence")]
    certainties = [int(found[1]) for found in map(_CERTAINTY.fullmatch, codes) if found]
    findings = [code for code in codes if code and not _CERTAINTY.fullmatch(code)]
    reader = next((text(one, "HumanPerformerName") for one in items(performed, "ActualHumanPerformersSequence")), "")
    if len(findings) != 1 or len(certainties) != 1 or not reader:
        raise Refused(
            HTTPStatus.CONFLICT,
            "UnifiedProcedureStepPerformedProcedureSequence must hold one finding and one certainty as codes of "
            f"{SCHEME} in PerformedWorkitemCodeSequence, and a HumanPerformerName in ActualHumanPerformersSequence",
        )
    said = text(performed, "CommentsOnThePerformedProcedureStep")
    if findings[0] == CANNOT_BE_READ and not said:
        raise Refused(HTTPStatus.CONFLICT, "CommentsOnThePerformedProcedureStep must say why the case cannot be read")
    return Read(finding=findings[0], certainty=certainties[0], comment=_with_reader(said, reader))


def _own_value(code: JsonDataset) -> str:
    own = text(code, "CodingSchemeDesignator") == SCHEME
    return (text(code, "CodeValue") or text(code, "LongCodeValue")) if own else ""


def _with_reader(comment: str, reader: str) -> str:
    return f"{comment}\n\nRead in another system by {words.person_name(reader[:_LABEL])}.".strip()
