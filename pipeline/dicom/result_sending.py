"""A result object on its way to a PACS: sent, then looked for there; what is there already is not sent again."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from pydicom import Dataset, dcmread, dcmwrite

from pipeline.dicom.attributes import quiet
from pipeline.dicom.pacs import Pacs
from pipeline.domain.result import Result
from pipeline.errors import RetryLater


def as_bytes(make: Callable[[Result], Dataset], result: Result) -> bytes:
    """The file of a result object; names and dates are repeated as the study has them, however odd they are."""
    stream = BytesIO()
    with quiet():
        dcmwrite(stream, make(result), enforce_file_format=True)
    return stream.getvalue()


def send_to_pacs(pacs: Pacs, content: bytes) -> dict[str, str]:
    """The receiver's status and how it was found there again. Raises RetryLater."""
    with quiet():
        dataset = dcmread(BytesIO(content))
        place = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))
        if pacs.holds(*place):
            return {"status": "was there already", "read_back": "found by query"}
        status = pacs.store(dataset)
        if not pacs.holds(*place):
            raise RetryLater("the PACS confirmed a result that it does not find; look at its storage and its rules")
    return {"status": status, "read_back": "found by query"}
