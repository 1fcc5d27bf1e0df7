"""The lead's page: how the room does, as plots and tables; stopping automation and arming it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from pipeline import oversight
from pipeline.domain.case import Route
from pipeline.errors import NotAllowed, UnfinishedRead
from pipeline.oversight import Bucket, Figures, Period, WaitLine
from pipeline.store.account_rows import May
from pipeline.store.session_rows import SignedIn
from pipeline.web import lead_plots
from pipeline.web.access import CLOSED, FOR_FIGURES, SeesFigures, Stops
from pipeline.web.lead_plots import Plot, Waits
from pipeline.web.room import Here, Room

router = APIRouter(dependencies=FOR_FIGURES)
stopping = APIRouter(dependencies=CLOSED)
Reason = Annotated[str, Form(max_length=2000)]
PLACES = (
    (Route.PRIORITY, "Priority read"),
    (Route.REVIEW, "Review"),
    (Route.ROUTINE, "Ordinary place"),
    (Route.OUT_OF_SCOPE, "Outside scope"),
)
KINDS = {2: "Priority read (high)", 1: "Review (medium)", 0: "Review (low)", None: "All"}


@dataclass(frozen=True, kw_only=True)
class LeadView:
    """The figures with the coordinates of their plots."""

    figures: Figures
    arrivals: Plot
    deferral: Plot
    waits: Plot
    reads: tuple[float, ...]  #: lengths of the readers' bars
    columns: tuple[str, ...]  #: the buckets' names

    @property
    def wait_lines(self) -> tuple[tuple[str, WaitLine], ...]:
        """The lines of the table of waits with their names; kinds without an item are left out."""
        return tuple((KINDS[line.priority], line) for line in self.figures.waits if line.summary.n)


def view_of(figures: Figures) -> LeadView:
    """The plots of these figures."""
    names = tuple(_name(bucket, figures.period) for bucket in figures.buckets)
    columns = [
        (name, [bucket.places[route] for route, _ in PLACES])
        for name, bucket in zip(names, figures.buckets, strict=True)
    ]
    points = [
        (name, bucket.deferral.value, bucket.deferral.low, bucket.deferral.high)
        for name, bucket in zip(names, figures.buckets, strict=True)
    ]
    groups = [
        Waits(kind=f"p{line.priority}", label=KINDS[line.priority], minutes=line.minutes, limit=line.limit_minutes)
        for line in figures.waits
        if line.priority is not None
    ]
    return LeadView(
        figures=figures,
        arrivals=lead_plots.stacked_columns(columns, [route.value for route, _ in PLACES]),
        deferral=lead_plots.shares(points),
        waits=lead_plots.waiting_curves(groups),
        reads=lead_plots.bar_widths([load.reads for load in figures.loads]),
        columns=names,
    )


def _name(bucket: Bucket, period: Period) -> str:
    return f"{bucket.start:%H:00}" if period is Period.DAY else f"{bucket.start:%d %b}"


def _page(room: Room, session: SignedIn, period: Period, *, problem: str = "", status: int = 200) -> Response:
    view = view_of(oversight.figures(room.database, period, asking=session.account, now=room.now()))
    account = session.account
    asked = any(one.account_id == account.id for one in view.figures.safe_state.requests)
    return room.page(
        "lead.html",
        status=status,
        session=session,
        room_open="/lead",
        view=view,
        figures=view.figures,
        periods=tuple(Period),
        places=PLACES,
        problem=problem,
        may_stop=account.may(May.STOP),
        has_asked=asked,
        sees_cases=account.may(May.SEE_CASES),
        sees_emergencies=account.may(May.STOP),
        fewest=oversight.FEWEST_SHOWN,
    )


@router.get("/lead")
def show_figures(room: Here, session: SeesFigures, period: Period = Period.DAY) -> Response:
    """How the room does over a period; no patient and no case's answer."""
    return _page(room, session, period)


@stopping.post("/lead/stop")
def stop(room: Here, session: Stops, reason: Reason = "") -> Response:
    """Send every new case to readers from the next decision on."""
    try:
        oversight.stop(room.database, session.account, reason, now=room.now())
    except UnfinishedRead as error:
        return _page(room, session, Period.DAY, problem=str(error), status=422)
    return RedirectResponse("/lead", status_code=303)


@stopping.post("/lead/rearm")
def rearm(room: Here, session: Stops, reason: Reason = "") -> Response:
    """Ask to let the model speak again; the second person's request does it."""
    try:
        oversight.ask_to_rearm(room.database, session.account, reason, now=room.now())
    except UnfinishedRead as error:
        return _page(room, session, Period.DAY, problem=str(error), status=422)
    except NotAllowed as error:
        return _page(room, session, Period.DAY, problem=str(error), status=403)
    return RedirectResponse("/lead", status_code=303)
