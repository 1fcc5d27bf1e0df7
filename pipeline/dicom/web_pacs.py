"""A PACS spoken to by DICOMweb: QIDO-RS, WADO-RS, STOW-RS (PS3.18), through dicomweb-client.

Fetched objects are handed on as the bytes they came in: they are parsed in the limited child and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import Any, Final

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset

from pipeline.dicom.attributes import quiet, uid
from pipeline.dicom.pacs import PacsSeries, PacsStudy, Take, days, series_of, study_of
from pipeline.errors import RetryLater
from pipeline.hospital import DicomWeb, read_token

#: As it is stored, so that nobody has to transcode.
_ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_OF_STUDY: Final = ("ModalitiesInStudy", "PatientID", "IssuerOfPatientID")
_OF_SERIES: Final = ("Modality", "NumberOfSeriesRelatedInstances")


class _Client(DICOMwebClient):
    """The library's client, with a WADO-RS that does not parse what it fetches."""

    def files(self, study_uid: str, series_uid: str) -> Iterator[bytes]:
        """Every instance of a series as the bytes of one DICOM file."""
        url = f"{self.base_url}/studies/{study_uid}/series/{series_uid}"
        response = self._http_get(url, headers={"Accept": _ACCEPT}, stream=True)
        yield from self._decode_multipart_message(response, stream=True)


class WebPacs:
    """A PACS at a DICOMweb address. Raises HaltPipeline where the token's file cannot be read."""

    def __init__(self, node: DicomWeb) -> None:
        self._node = node
        session = requests.Session()
        session.verify = True if node.authority is None else str(node.authority)
        session.max_redirects = 0  # an address that moves could lead anywhere
        self._client = _Client(node.url, session=session, headers=_headers(node), timeout=node.seconds)
        self._client.set_http_retry_params(retry=False)

    def echo(self) -> None:
        """A search for one study. Raises RetryLater."""
        with self._answering("QIDO-RS"):
            self._client.search_for_studies(limit=1)

    def studies(self, since: datetime, until: datetime) -> list[PacsStudy]:
        """QIDO-RS over these days. Raises RetryLater."""
        found = self._search(self._client.search_for_studies, _OF_STUDY, {"StudyDate": days(since, until)})
        return [study for study in map(study_of, found) if study is not None]

    def study(self, study_uid: str) -> PacsStudy | None:
        """QIDO-RS of one study. Raises RetryLater."""
        found = self._search(self._client.search_for_studies, _OF_STUDY, {"StudyInstanceUID": study_uid})
        return next((study for study in map(study_of, found) if study and study.uid == study_uid), None)

    def series(self, study_uid: str) -> list[PacsSeries]:
        """QIDO-RS of a study's series. Raises RetryLater."""
        return series_of(self._search(self._client.search_for_series, _OF_SERIES, {}, study_uid))

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """QIDO-RS of a series' instances. Raises RetryLater."""
        found = self._search(self._client.search_for_instances, (), {}, study_uid, series_uid)
        return [sop for sop in (uid(answer, "SOPInstanceUID") for answer in found) if sop]

    def holds(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
        """QIDO-RS of one instance. Raises RetryLater."""
        wanted = {"SOPInstanceUID": sop_instance_uid}
        found = self._search(self._client.search_for_instances, (), wanted, study_uid, series_uid)
        return any(uid(answer, "SOPInstanceUID") == sop_instance_uid for answer in found)

    def fetch(self, study_uid: str, take: Take) -> None:
        """WADO-RS of a study, series by series. Raises RetryLater."""
        for series in self.series(study_uid):
            with self._answering("WADO-RS"):
                for content in self._client.files(study_uid, series.uid):
                    take(BytesIO(content))

    def store(self, dataset: Dataset) -> str:
        """STOW-RS of one object; what the server answered, in a word. Raises RetryLater unless it was stored."""
        with self._answering("STOW-RS"), quiet():
            answer = self._client.store_instances([dataset])
        stored = [uid(item, "ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence", [])]
        if dataset.SOPInstanceUID not in stored:
            raise RetryLater("the PACS did not take a result (STOW-RS)")
        return "stored"

    def _search(self, search: Any, fields: Sequence[str], filters: dict[str, str], *place: str) -> list[Dataset]:
        with self._answering("QIDO-RS"), quiet():
            found = search(*place, fields=list(fields) or None, search_filters=filters, get_remaining=True)
            return [Dataset.from_json(answer) for answer in found]

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except requests.HTTPError as error:
            code = getattr(error.response, "status_code", "an error")
            raise RetryLater(
                f"{self._node.name} answered {what} with {code}; check its address and our token"
            ) from None
        except requests.RequestException as error:
            raise RetryLater(f"{self._node.name} does not answer {what} ({type(error).__name__})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RetryLater(f"{self._node.name} gave no sensible answer to {what} ({type(error).__name__})") from None


def _headers(node: DicomWeb) -> dict[str, str] | None:
    token = read_token(node.token_file, node.name)
    return None if token is None else {"Authorization": f"Bearer {token}"}
