"""`make bench-case`: how soon a reader sees the first image, in Chromium, at a served room on this machine.

    python -m tests.benchmarks.case_to_case [--cases 10] [--slices 24] [--size 256] [--out build/bench]

Each case is another patient's series that the room has not opened before, so that nothing is kept anywhere: reading the files,
decoding them in the limited child, sending and drawing are all in the time. The clock is the browser's own, from the press of
a button to the frame after the first image is drawn. The baseline is the moment at which the last slice of the same series
has come in: what a viewer would wait for that draws once it has everything.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from pydicom import dcmread

from pipeline.domain.interleaved import Row, as_text
from pipeline.store.database import upgrade
from tests.browser_room import QUIET, House, served_house, sign_in, watched_page
from tests.reading_room_cases import Wanted, mr_series

FIRST_IMAGE, CASE_TO_CASE = 1.0, 2.0  #: seconds that are aimed at
_WATCH = """
addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) sessionStorage.setItem(`pressed:${button.textContent.trim().split(/\\s+/).slice(0, 2).join(" ")}`, Date.now());
}, true);
addEventListener("DOMContentLoaded", () => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => { window.drawnAt ??= Date.now(); }));
  if (viewer.dataset.state === "ready") drawn();
  new MutationObserver(() => { if (viewer.dataset.state === "ready") drawn(); }).observe(viewer, { attributeFilter: ["data-state"] });
});
"""
_WHOLE = """async (slices) => {
  const came = () => performance.getEntriesByType("resource").filter((one) => one.name.includes("/pixels"));
  const covers = (one) => {
    const asked = new URL(one.name).searchParams;
    return asked.has("to") ? asked.get("to") - asked.get("from") : 1;
  };
  while (came().reduce((sum, one) => sum + covers(one), 0) < slices || came().some((one) => !one.responseEnd))
    await new Promise((done) => setTimeout(done, 20));
  return performance.timeOrigin + Math.max(...came().map((one) => one.responseEnd));
}"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds of one case."""

    first_image: float  # from "Take next" to the first image
    every_slice: float  # from "Take next" to the last slice's arrival
    from_commit: float | None  # from "Commit read" of the case before, with reveal and "Take next", to the first image


def patients_series(number: int, slices: int, size: int) -> list[bytes]:
    """A series of a patient of his own."""
    made = []
    for one in mr_series(slices=slices, size=size):
        dataset = dcmread(io.BytesIO(one))
        dataset.PatientID = f"MRN-{number}"
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        made.append(buffer.getvalue())
    return made


def furnish(house: House, cases: int, slices: int, size: int) -> None:
    """Cases that wait for a read."""
    for number in range(cases):
        house.add(Wanted(wait=timedelta(hours=4 + number)), files=patients_series(number, slices, size))


def take(page: Page, slices: int, committed: float | None) -> Turn:
    """Press the button for the next case and wait for its images."""
    before = page.url
    page.locator("#take-next button").click()
    page.wait_for_url(lambda url: "/cases/" in url and url != before)
    page.wait_for_function("() => window.drawnAt")
    drawn = page.evaluate("() => window.drawnAt")
    pressed = float(page.evaluate("() => sessionStorage.getItem('pressed:Take next')"))
    whole = page.evaluate(_WHOLE, slices)
    return Turn(
        first_image=(drawn - pressed) / 1000,
        every_slice=(whole - pressed) / 1000,
        from_commit=None if committed is None else (drawn - committed) / 1000,
    )


def read_and_reveal(page: Page) -> float:
    """Commit a read, look at the answer, and return when the commit was pressed (ms)."""
    page.locator("input[name=finding][value=no_tumour]").check()
    page.locator("input[name=certainty][value='4']").check()
    page.get_by_role("button", name="Commit read").click()
    page.get_by_role("button", name="Show what the model said").click()
    page.get_by_role("heading", name="What the model said").wait_for()
    return float(page.evaluate("() => sessionStorage.getItem('pressed:Commit read')"))


def turns(cases: int, slices: int, size: int) -> list[Turn]:
    """One reader's way through that many cases; two before them warm the server and the browser up."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        upgrade(f"sqlite:///{folder / 'empty.db'}")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False, args=QUIET
        )
        with served_house(folder / "empty.db", folder) as house, watched_page(browser, house) as watched:
            furnish(house, cases + 2, slices, size)
            watched.page.add_init_script(_WATCH)
            sign_in(watched.page, house)
            watched.page.goto(f"{house.url}/worklist")
            found, committed = [], None
            for _ in range(cases + 2):
                found.append(take(watched.page, slices, committed))
                committed = read_and_reveal(watched.page)
        browser.close()
    return found[2:]


def as_rows(found: Sequence[Turn]) -> list[Row]:
    """The first image against every slice, with the medians in seconds."""
    median = statistics.median(one.first_image for one in found)
    each = [one.first_image / one.every_slice for one in found]
    ratio = median / statistics.median(one.every_slice for one in found)
    name = f"first image after 'Take next' ({median:.2f} s)"
    return [Row(name=name, baseline="every slice of the same series", ratio=ratio, low=min(each), high=max(each))]


def as_lines(found: Sequence[Turn]) -> str:
    """Medians and the slowest, in seconds, against what is aimed at."""
    lines = []
    named = [
        ("first image after 'Take next'", FIRST_IMAGE, [one.first_image for one in found]),
        (
            "first image after 'Commit read', reveal and 'Take next'",
            CASE_TO_CASE,
            [one.from_commit or 0.0 for one in found],
        ),
        ("every slice after 'Take next'", None, [one.every_slice for one in found]),
    ]
    for name, aim, values in named:
        aimed = "" if aim is None else f" (aim {aim:.0f} s)"
        lines.append(
            f"{statistics.median(values):6.2f} s, slowest {max(values):.2f} s{aimed}: {name}, {len(values)} cases"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    if shutil.which("chromium") is None:
        sys.exit("Chromium is absent: 'make system' installs it")
    found = turns(asked.cases, asked.slices, asked.size)
    sys.stdout.write(as_lines(found) + as_text(as_rows(found)))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "case_to_case.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
