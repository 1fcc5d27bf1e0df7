"""What the demo shows at its end, as tables or JSON, and whether a safety promise broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.console import say, show_facts, show_json, show_table
from pipeline.dicom.phantoms import PhantomStudy
from pipeline.domain.case import Route

TRUTHS = ("finding", "no_finding", "unusable", "foreign")
CERTIFICATE_KEYS = ("alpha", "delta", "positives", "misses", "certified", "sentence")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One streamed study, what is true of it, and its newest decision (None: it was never decided)."""

    study: PhantomStudy
    decision: Mapping[str, Any] | None

    @property
    def route(self) -> str:
        """The route, or a dash."""
        return str(self.decision["route"]) if self.decision else "-"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the decision."""
        return tuple(self.decision["reasons"]) if self.decision else ()

    @property
    def problem(self) -> str | None:
        """What is wrong with this outcome: no decision, a route that is not allowed, none of the reasons expected."""
        study, name = self.study, self.study.defect or "no defect"
        if self.decision is None:
            return f"a study ({name}) was never decided"
        if self.route not in study.allowed_routes:
            return f"a study ({name}) went to {self.route} instead of {' or '.join(study.allowed_routes)}"
        if study.expected_reasons and not set(self.reasons) & set(study.expected_reasons):
            return f"a study ({name}) has the reasons {', '.join(self.reasons)}"
        return None


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything the demo found out."""

    home: Path
    seconds: Mapping[str, float]
    trained: Mapping[str, Any]
    report: Mapping[str, Any]
    status: Mapping[str, Any]
    outcomes: list[Outcome]
    reader: str
    password: str

    @property
    def routes(self) -> dict[str, dict[str, int]]:
        """Studies by route and truth."""
        counts = Counter((outcome.route, outcome.study.truth) for outcome in self.outcomes)
        return {route.value: {truth: counts[route.value, truth] for truth in TRUTHS} for route in Route}

    @property
    def certificate(self) -> dict[str, Any]:
        """The certificate of the routine side."""
        return {key: self.trained["certificate"][key] for key in CERTIFICATE_KEYS}

    @property
    def deferral(self) -> dict[str, float | None]:
        """AUC over all test cases, and over the half that the model is surest of."""
        return {"auc_all": self._auc(0.0), "auc_kept_half": self._auc(0.5)}

    @property
    def broken_promises(self) -> list[str]:
        """Every outcome that must not be, and what conservation finds."""
        found = [outcome.problem for outcome in self.outcomes]
        lost = self.status["instances"]["unaccounted"], self.status["studies"]["unrouted"]
        conservation = f"{lost[0]} instances unaccounted for, {lost[1]} studies unrouted" if any(lost) else None
        return [problem for problem in (*found, conservation) if problem]

    def _auc(self, deferred: float) -> float | None:
        points = self.report["referral"]
        point = min(points, key=lambda one: abs(one["deferred"] - deferred))
        value: float | None = point["auc"]
        return value


def story_json(story: Story) -> None:
    """The story as the promised JSON."""
    show_json(
        {
            "routes": story.routes,
            "certificate": story.certificate,
            "deferral": story.deferral,
            "conservation": dict(story.status),
            "seconds": dict(story.seconds),
            "home": str(story.home),
            "broken_promises": story.broken_promises,
            "account": {"name": story.reader, "password": story.password},
        }
    )


def show_story(story: Story) -> None:
    """The story as tables."""
    rows = [(route, *(counts[truth] for truth in TRUTHS)) for route, counts in story.routes.items()]
    show_table("Where the studies went, by what is true of them", ("route", *TRUTHS), rows)
    _show_broken_studies(story)
    say(story.certificate["sentence"])
    say(story.trained["certificates"]["priority"]["sentence"])
    say()
    _show_deferral(story)
    _show_conservation(story)
    show_table(
        "Time", ("stage", "seconds"), [*story.seconds.items(), ("in all", round(sum(story.seconds.values()), 1))]
    )
    _show_places(story)
    for problem in story.broken_promises:
        say(f"PROMISE BROKEN: {problem}")


def _show_broken_studies(story: Story) -> None:
    broken = [outcome for outcome in story.outcomes if outcome.study.defect]
    rows = [(o.study.defect, o.route, o.reasons, "as it must be" if o.problem is None else o.problem) for o in broken]
    show_table("What hospitals really send", ("defect", "route", "reasons", "verdict"), rows)


def _show_deferral(story: Story) -> None:
    whole, half = story.deferral["auc_all"], story.deferral["auc_kept_half"]
    if whole is not None and half is not None:
        say(f"AUC on the test split: {whole:.3f} over all, {half:.3f} over the half the model is surest of.")


def _show_conservation(story: Story) -> None:
    counted = story.status["instances"]
    say(
        f"Conservation: {counted['accepted']} images accepted, {counted['quarantined']} quarantined, "
        f"{counted['duplicate']} duplicates, {counted['unaccounted']} unaccounted for; "
        f"{story.status['studies']['sealed']} studies sealed, {story.status['studies']['unrouted']} without a route."
    )


def _show_places(story: Story) -> None:
    home = story.home
    show_facts(
        "Where things are",
        {
            "reading room": f"secondread --home {home} serve",
            "sign in as": f"{story.reader} / {story.password}",
            "MLflow": f"mlflow ui --backend-store-uri sqlite:///{home / 'mlflow.db'}",
            "Prefect": f"PREFECT_HOME={home / 'prefect'} prefect server start",
            "report": str(home / "report" / "report.html"),
        },
    )
