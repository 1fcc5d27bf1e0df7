"""A PACS spoken to by DIMSE: C-ECHO, C-FIND, C-MOVE or C-GET, C-STORE (PS3.4 annexes A to C, PS3.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from pipeline.dicom.application_entity import TRANSFER_SYNTAXES, application_entity, client_tls
from pipeline.dicom.attributes import quiet, uid
from pipeline.dicom.pacs import PacsSeries, PacsStudy, Take, days, query, series_of, study_of
from pipeline.dicom.receiver import ReceivedObject
from pipeline.dicom.sop_classes import RADIOLOGICAL
from pipeline.errors import RetryLater
from pipeline.hospital import DicomNode

_PENDING: Final = (0xFF00, 0xFF01)
_SUCCESS: Final = 0x0000
CLASSES_AT_ONCE: Final = 127 // len(TRANSFER_SYNTAXES)  #: an association has 128 contexts (PS3.8 9.3.2), one for C-GET


class DimsePacs:
    """A PACS at a DICOM node; an association a question."""

    def __init__(self, node: DicomNode, *, own_title: str, retrieve: str) -> None:
        self._node, self._own_title, self._retrieve = node, own_title, retrieve

    def echo(self) -> None:
        """C-ECHO. Raises RetryLater."""
        with self._associated([build_context(Verification)]) as association:
            self._succeeded(association.send_c_echo(), "C-ECHO")

    def studies(self, since: datetime, until: datetime) -> list[PacsStudy]:
        """C-FIND at study level over these days. Raises RetryLater."""
        answers = self._find(query("STUDY", StudyDate=days(since, until)))
        return [found for found in map(study_of, answers) if found is not None]

    def study(self, study_uid: str) -> PacsStudy | None:
        """C-FIND of one study. Raises RetryLater."""
        answers = self._find(query("STUDY", StudyInstanceUID=study_uid))
        return next((found for found in map(study_of, answers) if found and found.uid == study_uid), None)

    def series(self, study_uid: str) -> list[PacsSeries]:
        """C-FIND at series level. Raises RetryLater."""
        return series_of(self._find(query("SERIES", StudyInstanceUID=study_uid)))

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """C-FIND at image level. Raises RetryLater."""
        answers = self._find(query("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid))
        return [found for found in (uid(answer, "SOPInstanceUID") for answer in answers) if found]

    def holds(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
        """C-FIND of one object. Raises RetryLater."""
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        answers = self._find(query("IMAGE", **keys))
        return any(uid(answer, "SOPInstanceUID") == sop_instance_uid for answer in answers)

    def fetch(self, study_uid: str, take: Take) -> None:
        """C-GET on one association, or C-MOVE to our own node. Raises RetryLater unless every image came."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study_uid
        if self._retrieve == "move":
            self._move(wanted)
        else:
            self._get(wanted, take)

    def _move(self, wanted: Dataset) -> None:
        model = StudyRootQueryRetrieveInformationModelMove
        with self._associated([build_context(model)]) as association:
            self._completed(association.send_c_move(wanted, self._own_title, model), "C-MOVE")

    def _get(self, wanted: Dataset, take: Take) -> None:
        """One association for every few SOP classes, a context for each transfer syntax: the PACS sends what it stores."""
        classes = self._classes(str(wanted.StudyInstanceUID)) or sorted(RADIOLOGICAL)
        problem: RetryLater | None = None
        for first in range(0, len(classes), CLASSES_AT_ONCE):
            try:
                self._get_classes(wanted, take, classes[first : first + CLASSES_AT_ONCE])
            except RetryLater as error:
                problem = error
        if problem is not None:
            raise problem

    def _get_classes(self, wanted: Dataset, take: Take, classes: Sequence[str]) -> None:
        model = StudyRootQueryRetrieveInformationModelGet
        contexts = [build_context(found, syntax) for found in classes for syntax in TRANSFER_SYNTAXES]
        roles = [build_role(found, scp_role=True) for found in classes]
        handlers = [(evt.EVT_C_STORE, _taking(take))]
        with self._associated([build_context(model), *contexts], ext_neg=roles, evt_handlers=handlers) as association:
            self._completed(association.send_c_get(wanted, model), "C-GET")

    def _classes(self, study_uid: str) -> list[str]:
        """SOP classes of a study's instances; empty where the PACS does not tell them."""
        found = {
            uid(answer, "SOPClassUID") or ""
            for series in self.series(study_uid)
            for answer in self._find(query("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series.uid))
        }
        return sorted(found) if found and all(found) else []

    def store(self, dataset: Dataset) -> str:
        """C-STORE; the status as four hexadecimal digits. Raises RetryLater unless it is success or a warning."""
        context = build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        with self._associated([context]) as association:
            answer = association.send_c_store(dataset)
        status = getattr(answer, "Status", None)
        if status is None or (status != _SUCCESS and status & 0xF000 != 0xB000):
            told = "no status" if status is None else f"status {status:04X}"
            raise RetryLater(f"the PACS did not take a result (C-STORE, {told})")
        return f"{status:04X}"

    def _find(self, wanted: Dataset) -> list[Dataset]:
        model = StudyRootQueryRetrieveInformationModelFind
        with self._associated([build_context(model)]) as association, quiet():
            return self._answers(association.send_c_find(wanted, model))

    def _answers(self, replies: Iterator[tuple[Any, Dataset | None]]) -> list[Dataset]:
        found: list[Dataset] = []
        for status, answer in replies:
            code = getattr(status, "Status", None)
            if code in _PENDING and answer is not None:
                found.append(answer)
            elif code == _SUCCESS:
                return found
            elif code not in _PENDING:
                break
        raise RetryLater("the PACS broke off its answer to C-FIND")

    def _completed(self, replies: Iterator[tuple[Any, Dataset | None]], what: str) -> None:
        for status, _ in replies:
            code = getattr(status, "Status", None)
            if code in _PENDING:
                continue
            if code != _SUCCESS:
                told = "no status" if code is None else f"status {code:04X}"
                raise RetryLater(f"{what} did not bring everything ({told})")
            return
        raise RetryLater(f"{what} broke off")

    def _succeeded(self, answer: Any, what: str) -> None:
        if getattr(answer, "Status", None) != _SUCCESS:
            raise RetryLater(f"{what} was not answered with success")

    @contextmanager
    def _associated(self, contexts: Sequence[PresentationContext], **options: Any) -> Iterator[Association]:
        node, association = self._node, self._associate(contexts, options)
        if not association.is_established:
            why = "rejected ours" if association.is_rejected else "cannot be reached"
            raise RetryLater(
                f"the PACS {node.name} ({node.ae_title}) {why}; check its host, port and AE titles on both sides"
            )
        try:
            yield association
        except (RuntimeError, ValueError) as error:  # the library's word for an association that ended
            raise RetryLater(f"the association with {node.name} ended early ({type(error).__name__})") from error
        finally:
            association.release() if association.is_established else association.abort()

    def _associate(self, contexts: Sequence[PresentationContext], options: dict[str, Any]) -> Association:
        node = self._node
        entity = application_entity(self._own_title, seconds=node.seconds)
        try:
            if node.tls is not None:
                options["tls_args"] = (client_tls(node.tls), node.host)
            return entity.associate(node.host, node.port, contexts=list(contexts), ae_title=node.ae_title, **options)
        except OSError as error:  # a name that is not resolved, a certificate that is not there
            raise RetryLater(
                f"the PACS {node.name} ({node.ae_title}) cannot be reached ({type(error).__name__}); check its host name "
                "and the files under tls"
            ) from None


def _taking(take: Take) -> Any:
    def handle(event: evt.Event) -> int:
        try:
            take(ReceivedObject(event))
        except RetryLater:
            return 0xA700
        return _SUCCESS

    return handle
