"""The demo: the whole story on generated patients, with everything embedded in one folder.

Nothing here is staged for the demo: every step is the one a hospital's data would go through, by the same functions.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.accounts import make_account
from flows.bootstrap import House, open_house
from flows.console import Bars, bars
from flows.demo_story import Outcome, Story, show_story, story_json
from flows.prefect_server import prefect_server
from flows.receiving import take_in
from pipeline.dicom.phantoms import PhantomPlan, PhantomStudy, generate_phantoms, write_labels_csv
from pipeline.errors import HaltPipeline
from pipeline.settings import Settings
from pipeline.store import conservation

PROTOCOL = "brain-tumour-mr"
READER = "demo-reader"


def run_demo(
    home: Path | None,
    *,
    seed: int,
    as_json: bool,
    serve: bool,
    plan: PhantomPlan | None = None,
    protocol: str = PROTOCOL,
) -> int:
    """Tell the story and return the exit code: 1 when a safety promise broke. Raises HaltPipeline."""
    place = _fresh_home(home)
    _embed(place)
    with open_house(Settings(home=place, protocols=protocol, database_url=None, mlflow_uri=None), create=True) as house:
        with prefect_server(place):
            story = _Demo(house, seed=seed).tell(plan or PhantomPlan.demo())
        show_story(story) if not as_json else story_json(story)
        if serve:
            from flows.service_commands import open_room

            open_room(house, host=house.settings.bind, port=house.settings.port)
    return 1 if story.broken_promises else 0


@dataclass
class _Demo:
    """One telling; `seconds` is the time of each stage."""

    house: House
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)  #: newest decision by our own study id

    def tell(self, plan: PhantomPlan) -> Story:
        """Every stage in order."""
        folder = self.house.settings.home / "phantoms"
        with bars() as shown:
            with self._stage("generate"):
                studies = self._generate(folder, plan, shown)
            labels = folder / "labels.csv"
            write_labels_csv(studies, labels)
            trained = self._train(labels, shown)
            with self._stage("promote"):
                self._promote(trained["release"])
            ids = self._receive(folder, [study for study in studies if study.split is None], shown)
            with self._stage("evaluate"):
                report = self._evaluate(labels, shown)
        with self.house.database.read() as connection:
            accounted = conservation.status(connection, datetime.now(UTC))
        return Story(
            home=self.house.settings.home,
            seconds=self.seconds,
            trained=trained,
            report=report,
            status=accounted,
            outcomes=self._outcomes(studies, ids),
            reader=READER,
            password=make_account(self.house, READER, role="lead", specialties=None),
        )

    def _generate(self, folder: Path, plan: PhantomPlan, shown: Bars) -> list[PhantomStudy]:
        workers = os.cpu_count() or 1

        def at(done: int, total: int) -> None:
            shown.at("generate patients", done, total)

        return generate_phantoms(folder, plan, self.seed, at, workers=workers)

    def _train(self, labels: Path, shown: Bars) -> dict[str, Any]:
        from flows.training_flow import run_training

        with self._stage("train"):
            return run_training(self.house, self._protocol, labels, seed=self.seed, actor="demo", on_progress=shown.at)

    def _promote(self, version: str) -> None:
        from flows.promotion_flow import promotion_flow
        from flows.workplace import handed, silent

        with handed(self.house, silent):
            outcome = promotion_flow(
                protocol=self._protocol, version=version, actor="demo", reason="the demo's release"
            )
        if not outcome["moved"]:
            raise HaltPipeline(f"the gate refused the demo's release: {'; '.join(outcome['findings'])}")

    def _receive(self, folder: Path, studies: list[PhantomStudy], shown: Bars) -> dict[str, str]:
        """The stream, triage, then what arrives late, and triage again; returns our study id by StudyInstanceUID."""
        with self._stage("ingest"):
            ids = self._ingest(folder / "stream", studies, shown, "take studies in")
        self._triage(shown)
        with self._stage("late"):
            self._ingest(folder / "late", studies, shown, "late images")
        self._triage(shown)
        return ids

    def _ingest(self, folder: Path, studies: list[PhantomStudy], shown: Bars, stage: str) -> dict[str, str]:
        receipts = take_in(
            self.house, folder, source="demo", on_progress=lambda done, total: shown.at(stage, done, total)
        )
        by_folder = {study.folder: study.study_uid for study in studies}
        found: dict[str, str] = {}
        for receipt in receipts:
            uid = next((by_folder[parent] for parent in receipt.path.parents if parent in by_folder), None)
            if uid is not None and receipt.study is not None:
                found[uid] = receipt.study
        return found

    def _triage(self, shown: Bars) -> None:
        from flows.triage_flow import run_triage

        with self._stage("triage"):
            summary = run_triage(self.house, seal_now=True, on_progress=shown.at)
        self.outcomes |= {case["study"]: case for case in summary["cases"]}

    def _evaluate(self, labels: Path, shown: Bars) -> dict[str, Any]:
        from flows.judging import evaluate_release

        place = self.house.settings.home / "report"
        return evaluate_release(
            self.house, "champion", labels, place, split="test", protocol=self._protocol, on_progress=shown.at
        )

    def _outcomes(self, studies: list[PhantomStudy], ids: dict[str, str]) -> list[Outcome]:
        streamed = [study for study in studies if study.split is None]
        return [Outcome(study=study, decision=self.outcomes.get(ids.get(study.study_uid, ""))) for study in streamed]

    @property
    def _protocol(self) -> str:
        return next(iter(self.house.protocols))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)


def _fresh_home(home: Path | None) -> Path:
    if home is None:
        return Path(tempfile.mkdtemp(prefix="secondread-demo-"))
    if home.exists() and any(home.iterdir()):
        raise HaltPipeline(f"{home} is not empty; give the demo a new folder, or leave --home away")
    return home.expanduser().absolute()


def _embed(home: Path) -> None:
    """Point this process and its children at `home` alone: the demo reaches no server."""
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["SECONDREAD_HOME"] = str(home)
    os.environ["PREFECT_HOME"] = str(home / "prefect")
