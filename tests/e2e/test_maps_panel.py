"""The maps beside the revealed answer, in a browser: nothing is drawn and nothing is fetched before somebody asks."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from pipeline.domain.drawn_map import DrawnMap, MapKind
from pipeline.store import map_rows
from tests.browser_room import House, Watched, sign_in
from tests.e2e.test_accessibility import violations
from tests.reading_room_cases import RELEASE, Wanted

pytestmark = pytest.mark.browser
AFFINE = np.array([[0.0, 0, 3.2, -102.4], [0, 3.2, 0, -102.4], [7.0, 0, 0, 10], [0, 0, 0, 1]])
SHAPE = (20, 64, 64)


def head_with_spot() -> dict[MapKind, np.ndarray]:
    """A grey ellipsoid; what is sensitive lies in one spot of slices 8 to 12, and there is a little doubt beside it."""
    d, h, w = np.mgrid[0:20, 0:64, 0:64].astype(np.float64)
    head = ((d - 10) / 10) ** 2 + ((h - 32) / 26) ** 2 + ((w - 32) / 21) ** 2 < 1
    spot = np.exp(-(((d - 10) / 1.5) ** 2 + ((h - 24) / 5) ** 2 + ((w - 42) / 5) ** 2))
    beside = 0.5 * np.exp(-(((d - 10) / 1.5) ** 2 + ((h - 38) / 6) ** 2 + ((w - 26) / 6) ** 2))
    pictures = {MapKind.INPUT: 0.5 * head + 0.3 * spot, MapKind.SALIENCY: spot, MapKind.UNCERTAINTY: beside}
    return {kind: np.rint(255 * values).astype(np.uint8) for kind, values in pictures.items()}


def add_maps(house: House, case_id: str) -> None:
    stored = [
        (
            DrawnMap(kind=kind, series=0, values=values, affine=AFFINE, full_scale=1.0),
            house.blobs.put(zlib.compress(values.tobytes())),
        )
        for kind, values in head_with_spot().items()
    ]
    with house.database.transaction() as connection:
        map_rows.add_maps(connection, case_id=case_id, maps=stored, release_digest=RELEASE, now=house.clock())


def revealed(page: Page, house: House, case_id: str) -> None:
    """Sign in, claim, commit and reveal by the page's own forms."""
    sign_in(page, house)
    token = page.locator("input[name=csrf_token]").first.get_attribute("value") or ""
    steps: tuple[tuple[str, dict[str, str]], ...] = (
        ("claim", {}),
        ("commit", {"fence": "1", "finding": "tumour", "certainty": "4"}),
        ("reveal", {}),
    )
    for step, fields in steps:
        answer = page.request.post(
            f"{house.url}/cases/{case_id}/{step}",
            form={"csrf_token": token, **fields},
            headers={"Origin": house.url},
            max_redirects=0,
        )
        assert answer.status == 303, (step, answer.text()[:500])
    page.goto(f"{house.url}/cases/{case_id}")


def drawn_colours(page: Page) -> dict[str, int]:
    """How many pixels of the canvas are amber, how many blue and how many only grey; letters left out."""
    found: dict[str, int] = page.evaluate(
        """() => {
          const canvas = document.getElementById("maps-canvas");
          const data = canvas.getContext("2d").getImageData(80, 80, canvas.width - 160, canvas.height - 160).data;
          const count = { amber: 0, blue: 0, grey: 0 };
          for (let i = 0; i < data.length; i += 4) {
            if (data[i] > data[i + 2] + 40) count.amber += 1;
            else if (data[i + 2] > data[i] + 40) count.blue += 1;
            else count.grey += 1;
          }
          return count;
        }"""
    )
    return found


def test_maps_are_off_until_asked_for_and_drawn_beside_the_images(watched: Watched, house: House) -> None:
    page, case_id = watched.page, house.add(Wanted())
    add_maps(house, case_id)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/maps" in request.url else None)
    revealed(page, house, case_id)
    section = page.locator("#maps")
    expect(section.get_by_text("Not proof of anything; it can be wrong where it looks convincing.")).to_be_visible()
    expect(page.locator("#maps-canvas")).to_be_hidden()
    assert [url for url in asked if not url.endswith((".js", ".css"))] == []

    page.get_by_role("button", name="Show the maps").focus()
    page.keyboard.press("Enter")
    expect(section).to_have_attribute("data-state", "drawn")
    clean = drawn_colours(page)
    assert clean["grey"] > 0
    assert clean["amber"] == clean["blue"] == 0
    expect(page.locator("#maps-place")).to_have_text("Slice 11 of 20 on the network's grid, over it: nothing")

    section.get_by_label("Sensitivity").check()
    expect(page.locator("#maps-place")).to_contain_text("sensitivity")
    assert drawn_colours(page)["amber"] > 500
    section.get_by_label("Disagreement").check()
    expect(page.locator("#maps-place")).to_contain_text("disagreement")
    assert drawn_colours(page)["blue"] > 500
    assert drawn_colours(page)["amber"] == 0

    assert violations(page) == []
    page.get_by_role("button", name="Hide the maps").click()
    expect(page.locator("#maps-canvas")).to_be_hidden()
    assert watched.complaints == []
    assert watched.foreign == []


def test_the_panel_follows_the_place_in_the_patient_and_its_own_keys(watched: Watched, house: House) -> None:
    page, case_id = watched.page, house.add(Wanted())
    add_maps(house, case_id)
    revealed(page, house, case_id)
    page.get_by_role("button", name="Show the maps").click()
    expect(page.locator("#maps")).to_have_attribute("data-state", "drawn")
    # 52 mm is slice (52 - 10) / 7 = 6, counted from 0
    page.evaluate(
        """document.dispatchEvent(new CustomEvent("secondread:slice", { detail: { focus: [3, -20, 52], index: 1 } }))"""
    )
    expect(page.locator("#maps-place")).to_contain_text("Slice 7 of 20")
    page.evaluate(
        """document.dispatchEvent(new CustomEvent("secondread:slice", { detail: { focus: [3, -20, 900], index: 9 } }))"""
    )
    expect(page.locator("#maps-place")).to_contain_text("Slice 7 of 20")
    page.locator("#maps-slice").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#maps-place")).to_contain_text("Slice 8 of 20")
    label = page.locator("#maps-canvas").get_attribute("aria-label") or ""
    assert "left edge R, top edge A" in label
    assert watched.complaints == []
