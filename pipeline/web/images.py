"""The viewer's data: the series of a case and of earlier studies beside it, as display values and what windows them.

Whoever may see a case may see its patient's earlier images through it, and nothing else of those studies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from pipeline import review
from pipeline.errors import DeferCase, NoSuchCase
from pipeline.store import prior_rows, reading_rows
from pipeline.store.exposure_rows import Exposure
from pipeline.store.prior_rows import Prior
from pipeline.web import words
from pipeline.web.access import FOR_CASES, Session
from pipeline.web.reslicing import three_planes
from pipeline.web.room import Here
from pipeline.web.shelf import SeriesEntry, Stack, series_entries

router = APIRouter(dependencies=FOR_CASES)
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
SeriesIndex = Annotated[int, Path(ge=0, le=9999)]
_MOST = 2**28  #: images of a series
Slice = Annotated[int, Path(ge=0, le=_MOST)]
First = Annotated[int, Query(alias="from", ge=0, le=_MOST)]
Beyond = Annotated[int | None, Query(alias="to", ge=1, le=_MOST)]


def _served(path: str) -> Callable[[Endpoint], Endpoint]:
    """Serve an endpoint of the case's own study and of every earlier one."""

    def serve(endpoint: Endpoint) -> Endpoint:
        for study in ("/cases/{case_id}", "/cases/{case_id}/priors/{prior}"):
            router.add_api_route(study + path, endpoint, methods=["GET"])
        return endpoint

    return serve


def entries_asked_for(request: Request, case_id: CaseId, room: Here, session: Session) -> list[SeriesEntry]:
    """The series of the case, or of the earlier study that the address names; raises NoSuchCase."""
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    review.note_exposure(room.database, session.account, case_id, Exposure.IMAGES, now=room.now())
    prior = request.path_params.get("prior")
    with room.database.read() as connection:
        revision = view.case.revision_id
        if prior is not None:
            revision = _known_prior(prior_rows.priors_of(connection, case_id), prior).revision_id
        return series_entries(reading_rows.images_of(connection, revision), view.protocol)


def _known_prior(priors: list[Prior], asked: str) -> Prior:
    for prior in priors:
        if prior.revision_id == asked:
            return prior
    raise NoSuchCase("there is no such earlier study; open the case again")


Entries = Annotated[list[SeriesEntry], Depends(entries_asked_for)]


def stack_asked_for(index: SeriesIndex, entries: Entries, room: Here) -> Stack | str:
    """The images of one series, or why there are none; raises NoSuchCase."""
    if index >= len(entries):
        raise NoSuchCase("there is no such series; open the case again")
    try:
        return room.shelf.stack(entries[index], room.blobs)
    except DeferCase as refused:
        return refused.detail


Asked = Annotated[Stack | str, Depends(stack_asked_for)]


@_served("/series")
def list_series(entries: Entries, room: Here) -> dict[str, Any]:
    """The series of a study, those that the protocol reads first; the first of them is read ahead."""
    if entries:
        room.shelf.warm(entries[0], room.blobs)
    return {
        "series": [
            {"index": i, "words": entry.words, "images": entry.frames, "chosen": entry.chosen}
            for i, entry in enumerate(entries)
        ]
    }


@_served("/series/{index}")
def describe_series(asked: Asked) -> dict[str, Any]:
    """Shape, intensity scale, first window, place and edges of one series; or why it cannot be shown."""
    if isinstance(asked, str):
        return {"depth": 0, "notes": [f"None of these images can be shown ({asked})."]}
    depth, height, width = asked.values.shape
    return {
        "depth": depth,
        "height": height,
        "width": width,
        "slope": asked.slope,
        "intercept": asked.intercept,
        "window_centre": asked.window_centre,
        "window_width": asked.window_width,
        "aspect": asked.aspect,
        "pixel_mm": asked.pixel_mm,
        "affine": None if asked.affine is None else asked.affine.tolist(),
        "planes": [] if asked.affine is None else [asdict(plane) for plane in three_planes(asked.affine)],
        "modality": asked.modality,
        "edges": list(asked.edges),
        "notes": list(asked.notes),
    }


@_served("/series/{index}/pixels")
def series_pixels(asked: Asked, first: First = 0, beyond: Beyond = None) -> Response:
    """The display values of the images `from` up to and without `to` as uint16, little endian; raises NoSuchCase."""
    return _pixels(asked, first, beyond)


@_served("/series/{index}/slices/{k}/pixels")
def slice_pixels(asked: Asked, k: Slice) -> Response:
    """The display values of one image as uint16, little endian; raises NoSuchCase."""
    return _pixels(asked, k, k + 1)


def _pixels(asked: Stack | str, first: int, beyond: int | None) -> Response:
    if isinstance(asked, str):
        raise NoSuchCase("none of these images can be shown")
    depth = asked.values.shape[0]
    end = depth if beyond is None else beyond
    if not first < end <= depth:
        raise NoSuchCase("this series has no such images; open the case again")
    values = asked.values[first:end]
    little = values if sys.byteorder == "little" else values.byteswap()
    return Response(little.tobytes(), media_type="application/octet-stream")


@router.get("/cases/{case_id}/priors")
def list_priors(case_id: CaseId, room: Here) -> dict[str, Any]:
    """Earlier studies of the patient that can be shown beside the case, the newest first."""
    with room.database.read() as connection:
        reading_rows.known_case(connection, case_id)
        found = [
            (prior, reading_rows.images_of(connection, prior.revision_id))
            for prior in prior_rows.priors_of(connection, case_id)
        ]
    return {"priors": [_told(prior, images) for prior, images in found]}


def _told(prior: Prior, images: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    header = images[0][1]
    what = (header.get("modality"), header.get("study_description"), words.dicom_date(prior.study_date))
    return {"prior": prior.revision_id, "words": " · ".join(str(word) for word in what if word), "images": len(images)}
