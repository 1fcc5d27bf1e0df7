"""Images for programs: the series of a case, how each is shown, its display values, and the patient's earlier studies."""

from __future__ import annotations

from fastapi import APIRouter, Response

from pipeline import review
from pipeline.store.exposure_rows import Exposure
from pipeline.web import images
from pipeline.web.access import FOR_CASES, SeesCases
from pipeline.web.api_models import Told
from pipeline.web.images import Asked, Beyond, Entries, First
from pipeline.web.room import Here
from pipeline.web.told_case import CaseId

router = APIRouter(prefix="/api", dependencies=FOR_CASES)


class ToldSeries(Told):
    """One series; `chosen`: the protocol reads it."""

    index: int
    words: str
    images: int
    chosen: bool


class ToldSeriesList(Told):
    """The series of a case."""

    series: tuple[ToldSeries, ...]


class ToldStack(Told):
    """How one series is shown: shape, intensity scale and first window; depth 0 where nothing of it can be."""

    depth: int
    height: int = 0
    width: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    window_centre: float = 0.0
    window_width: float = 1.0
    aspect: float = 1.0
    affine: tuple[tuple[float, ...], ...] | None = None  #: 4 x 4, from index to LPS millimetres
    modality: str = ""
    edges: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ToldPrior(Told):
    """One earlier study."""

    prior: str
    words: str
    images: int


class ToldPriors(Told):
    """Earlier studies of the patient that can be shown beside the case, the newest first."""

    priors: tuple[ToldPrior, ...]


@router.get("/cases/{case_id}/series", response_model=ToldSeriesList)  # noqa: FAST003 - of the dependencies
def list_series(entries: Entries, room: Here) -> ToldSeriesList:
    """List the series of a case, those that the protocol reads first."""
    return ToldSeriesList.model_validate(images.list_series(entries, room))


@router.get("/cases/{case_id}/series/{index}", response_model=ToldStack)  # noqa: FAST003
def describe_series(asked: Asked) -> ToldStack:
    """Tell shape, intensity scale and first window of one series, or why it cannot be shown."""
    return ToldStack.model_validate(images.describe_series(asked))


@router.get(
    "/cases/{case_id}/series/{index}/pixels",  # noqa: FAST003
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def series_pixels(  # noqa: PLR0917 - the parts of one request
    case_id: CaseId, asked: Asked, room: Here, session: SeesCases, first: First = 0, beyond: Beyond = None
) -> Response:
    """Send the display values of the images `from` up to and without `to`: uint16, little endian, (D, H, W)."""
    answer = images.series_pixels(asked, first, beyond)
    review.note_exposure(room.database, session.account, case_id, Exposure.IMAGES, now=room.now())
    return answer


@router.get("/cases/{case_id}/priors", response_model=ToldPriors)
def list_priors(case_id: CaseId, room: Here) -> ToldPriors:
    """List earlier studies of the patient, the newest first."""
    return ToldPriors.model_validate(images.list_priors(case_id, room))
