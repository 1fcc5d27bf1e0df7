from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.reading_room import ReadingRoom
from tests.browser_room import House, Watched, served_house, sign_in, wait_for_images, watched_page
from tests.reading_room_cases import Wanted, mr_series

pytestmark = pytest.mark.browser
Change = Callable[[pydicom.Dataset], None]
PIXEL = """(element, [columns, rows, wide, tall, column, row]) => {
    const c = element.querySelector('canvas'), scale = Math.min(c.width / (columns * wide), c.height / (rows * tall));
    const x = c.width / 2 + (column + .5 - columns / 2) * wide * scale, y = c.height / 2 + (row + .5 - rows / 2) * tall * scale;
    return c.getContext('2d').getImageData(Math.floor(x), Math.floor(y), 1, 1).data[0]; }"""
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"


def changed(files: list[bytes], change: Change) -> list[bytes]:
    made = []
    for one in files:
        dataset = pydicom.dcmread(io.BytesIO(one))
        change(dataset)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        made.append(buffer.getvalue())
    return made


def dated(day: str) -> Change:
    return lambda dataset: setattr(dataset, "StudyDate", day)


def open_case(house: House, watched: Watched, files: list[bytes], *, rendering: str = "cpu") -> str:
    case_id = house.add(Wanted(), files=files)
    sign_in(watched.page, house)
    watched.page.goto(f"{house.url}/cases/{case_id}?rendering={rendering}")
    wait_for_images(watched.page)
    return case_id


def pane(page: Page, name: str = "main") -> str:
    return f"[data-pane={name}]"


def grey(page: Page, name: str, image: tuple[float, ...], column: int, row: int) -> int:
    """Grey level, 0 to 255, drawn in the middle of one pixel of an image of so many columns and rows so large."""
    page.evaluate(SETTLED)
    return int(page.eval_on_selector(f"{pane(page, name)} .slice", PIXEL, [*image, column, row]))


def window_of(page: Page) -> tuple[float, float]:
    found = re.match(r"W (\S+)\s+L (\S+)", page.inner_text("#corner-window"))
    assert found
    return float(found[1]), float(found[2])


def expected_grey(page: Page, value: float) -> float:
    width, level = window_of(page)
    return min(255.0, max(0.0, (value - level + width / 2) / width * 255))


def point(page: Page, image: tuple[float, ...], column: float, row: float) -> tuple[float, float]:
    """Where that place of the image, counted in pixels from its left upper corner, lies on the page."""
    columns, rows, wide, tall = image
    box = page.locator("#slice").bounding_box()
    assert box
    scale = min(box["width"] / (columns * wide), box["height"] / (rows * tall))
    x = box["x"] + box["width"] / 2 + (column - columns / 2) * wide * scale
    return x, box["y"] + box["height"] / 2 + (row - rows / 2) * tall * scale


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
    page.mouse.move(*end, steps=3)
    page.mouse.up()


def is_quiet(watched: Watched) -> bool:
    assert watched.complaints == []
    assert watched.foreign == []
    return True


def test_the_viewer_scrolls_windows_inverts_and_resets(house: House, watched: Watched) -> None:
    open_case(house, watched, mr_series(slices=5, size=32))
    page, image = watched.page, (32, 32, 1, 1)
    where, window = page.locator("#corner-slice"), page.locator("#corner-window")
    expect(where).to_have_text("Image 3 / 5")
    for edge, letter in (("left", "R"), ("right", "L"), ("top", "A"), ("bottom", "P")):
        expect(page.locator(f"#edge-{edge}")).to_have_text(letter)
    expect(page.get_by_text("Not for primary diagnosis")).to_be_visible()
    third = grey(page, "main", image, 16, 16)
    page.keyboard.press("ArrowDown")
    expect(where).to_have_text("Image 4 / 5")
    assert grey(page, "main", image, 16, 16) > third
    page.hover("#slice")
    page.mouse.wheel(0, 120)
    expect(where).to_have_text("Image 5 / 5")
    page.keyboard.press("Home")
    expect(where).to_have_text("Image 1 / 5")
    page.keyboard.press("ArrowUp")
    expect(where).to_have_text("Image 1 / 5")
    first_window = window.inner_text()
    drag(page, point(page, image, 10, 10), point(page, image, 16, 13))
    assert window.inner_text() != first_window
    page.keyboard.press("r")
    expect(window).to_have_text(first_window)
    page.keyboard.press("Shift+Digit2")
    assert window.inner_text() != first_window
    page.keyboard.press("r")
    page.keyboard.press("End")
    expect(where).to_have_text("Image 5 / 5")
    page.keyboard.press("PageUp")
    expect(where).to_have_text("Image 1 / 5")
    page.keyboard.press("PageDown")
    expect(where).to_have_text("Image 5 / 5")
    page.keyboard.press("ArrowUp")
    expect(where).to_have_text("Image 4 / 5")
    dark = grey(page, "main", image, 16, 16)
    page.keyboard.press("i")
    assert abs(grey(page, "main", image, 16, 16) - (255 - dark)) <= 1
    assert is_quiet(watched)


@pytest.mark.parametrize("rendering", ["cpu", "gpu"])
def test_a_number_is_drawn_where_it_belongs_in_all_three_planes(house: House, watched: Watched, rendering: str) -> None:
    open_case(house, watched, mr_series(slices=3, size=16), rendering=rendering)
    page = watched.page
    expect(page.locator("#viewer")).to_have_attribute("data-rendering", rendering)
    axial, cut = (16, 16, 1, 1), (16, 3, 1, 5)
    for column, row in ((0, 0), (15, 0), (0, 15), (15, 15), (7, 3)):
        value = 1000 + 10 * row + column
        assert abs(grey(page, "main", axial, column, row) - expected_grey(page, value)) <= 2
    page.keyboard.press("p")
    expect(page.locator(f"{pane(page, 'second')} .corner-slice")).to_have_text("Image 9 / 16")
    for column, slice_from_top in ((0, 0), (15, 1), (3, 2)):
        slice_ = 2 - slice_from_top  # the head is at the top, and the last slice nearest to it
        in_coronal, in_sagittal = 1000 * slice_ + 10 * 8 + column, 1000 * slice_ + 10 * column + 8
        # Between slices lie 118 grey levels; the browser's smoothing reaches a little into the middle of tall pixels.
        assert abs(grey(page, "first", cut, column, slice_from_top) - expected_grey(page, in_coronal)) <= 9
        assert abs(grey(page, "second", cut, column, slice_from_top) - expected_grey(page, in_sagittal)) <= 9
    for name, letters in (("first", "RLHF"), ("second", "APHF")):
        texts = [page.inner_text(f"{pane(page, name)} .{side}") for side in ("left", "right", "top-edge", "bottom")]
        assert "".join(texts) == letters
    assert is_quiet(watched)


@pytest.mark.parametrize("rendering", ["cpu", "gpu"])
def test_one_bright_voxel_lights_up_once_in_every_plane(house: House, watched: Watched, rendering: str) -> None:
    def dark(dataset: pydicom.Dataset) -> None:
        values = np.indices((16, 16)).sum(axis=0).astype("<u2")  # an image of one value is refused
        if dataset.InstanceNumber == 2:
            values[3, 12] = 1000
        dataset.PixelData = values.tobytes()

    open_case(house, watched, changed(mr_series(slices=4, size=16), dark), rendering=rendering)
    page = watched.page
    page.keyboard.press("p")
    expect(page.locator(f"{pane(page, 'second')} .corner-slice")).to_have_text("Image 9 / 16")
    for name, k, other, image, (column, row) in (
        ("main", 1, 2, (16, 16, 1, 1), (12, 3)),
        ("first", 3, 4, (16, 4, 1, 5), (12, 2)),  # coronal: the third image from the top is the second slice
        ("second", 12, 11, (16, 4, 1, 5), (3, 2)),
    ):
        scroll = page.locator(f"{pane(page, name)} .scroll")
        for number, bright in ((k, True), (other, False)):
            scroll.fill(str(number))
            expect(page.locator(f"{pane(page, name)} .corner-slice")).to_contain_text(f"Image {number + 1} /")
            assert (grey(page, name, image, column, row) > 235) is bright, (name, number)
            assert grey(page, name, image, 14 - column, row) < 215


def test_planes_of_one_series_share_their_window(house: House, watched: Watched) -> None:
    open_case(house, watched, mr_series(slices=5, size=16))
    page = watched.page
    page.keyboard.press("p")
    expect(page.locator(f"{pane(page, 'second')} .corner-slice")).to_have_text("Image 9 / 16")
    page.keyboard.press("Shift+Digit2")
    window = page.inner_text("#corner-window")
    for name in ("first", "second"):
        expect(page.locator(f"{pane(page, name)} .corner-window")).to_have_text(window)


@pytest.mark.parametrize("rendering", ["cpu", "gpu"])
def test_letters_follow_flips(house: House, watched: Watched, rendering: str) -> None:
    open_case(house, watched, mr_series(slices=3, size=16), rendering=rendering)
    page, image = watched.page, (16, 16, 1, 1)
    left, right, top = (grey(page, "main", image, c, r) for c, r in ((0, 8), (15, 8), (8, 0)))
    page.keyboard.press("h")
    expect(page.locator("#edge-left")).to_have_text("L")
    expect(page.locator("#edge-right")).to_have_text("R")
    expect(page.locator("#edge-top")).to_have_text("A")
    assert abs(grey(page, "main", image, 0, 8) - right) <= 1
    assert abs(grey(page, "main", image, 15, 8) - left) <= 1
    page.get_by_role("button", name="Flip ↕").click()
    expect(page.locator("#edge-top")).to_have_text("P")
    expect(page.locator("#edge-bottom")).to_have_text("A")
    assert abs(grey(page, "main", image, 7, 15) - top) <= 1
    page.keyboard.press("r")
    expect(page.locator("#edge-left")).to_have_text("R")
    expect(page.locator("#edge-top")).to_have_text("A")


def measure(
    page: Page, tool: str, image: tuple[float, ...], start: tuple[float, float], end: tuple[float, float]
) -> str:
    page.get_by_role("button", name="Clear measures").is_enabled() and page.get_by_role(
        "button", name="Clear measures"
    ).click()
    page.locator(f"[data-tool={tool}]").click()
    drag(page, point(page, image, *start), point(page, image, *end))
    text = page.locator("#slice svg text")
    expect(text).to_contain_text(re.compile(r"\d"))
    page.wait_for_timeout(250)  # the statistics of a shape that was just let go are reckoned a moment later
    return text.text_content() or ""


@pytest.mark.parametrize("rendering", ["cpu", "gpu"])
def test_a_known_distance_is_measured_in_millimetres(house: House, watched: Watched, rendering: str) -> None:
    def tall_pixels(dataset: pydicom.Dataset) -> None:
        dataset.PixelSpacing = [2.0, 0.5]

    open_case(house, watched, changed(mr_series(slices=3, size=16), tall_pixels), rendering=rendering)
    page, image = watched.page, (16, 16, 0.5, 2.0)
    across = re.match(r"(\d+\.\d) mm$", measure(page, "length", image, (3, 8), (13, 8)))
    assert across
    assert float(across[1]) == pytest.approx(5.0, abs=0.15)  # ten columns of half a millimetre
    down = re.match(r"(\d+\.\d) mm$", measure(page, "length", image, (8, 3), (8, 13)))
    assert down
    assert float(down[1]) == pytest.approx(20.0, abs=0.15)  # ten rows of two millimetres
    assert is_quiet(watched)


def test_an_oval_tells_mean_and_deviation_in_intensities(house: House, watched: Watched) -> None:
    def flat(dataset: pydicom.Dataset) -> None:
        dataset.PixelData = (b"\x64\x00" * 8 + b"\xc8\x00" * 8) * 16  # 100 on the left, 200 on the right
        dataset.RescaleSlope, dataset.RescaleIntercept = 2.0, -1000.0

    open_case(house, watched, changed(mr_series(slices=3, size=16), flat))
    page, image = watched.page, (16, 16, 1, 1)
    told = measure(page, "oval", image, (3, 8), (6, 11))
    assert "Mean -800" in told
    assert "SD 0.0" in told
    assert "mm²" in told


def test_without_a_pixel_spacing_nothing_is_said_in_millimetres(house: House, watched: Watched) -> None:
    def projection(dataset: pydicom.Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        dataset.Modality = "CR"
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices"):
            delattr(dataset, keyword)

    open_case(house, watched, changed(mr_series(slices=1, size=16), projection))
    told = measure(watched.page, "length", (16, 16, 1, 1), (3, 8), (13, 8))
    assert re.match(r"10\.\d px$|9\.9 px$", told), told
    assert watched.page.inner_text("#edge-left") == ""
    expect(watched.page.locator("#planes")).to_be_disabled()


def test_an_earlier_study_of_the_patient_is_shown_beside_and_marked(house: House, watched: Watched) -> None:
    house.add(Wanted(), files=changed(mr_series(slices=4, size=16, description="OLD T1"), dated("20250101")))
    open_case(house, watched, changed(mr_series(slices=3, size=16), dated("20260313")))
    page = watched.page
    expect(page.locator("#prior")).to_be_enabled()
    page.keyboard.press("b")
    beside = page.locator(f"{pane(page, 'prior')} .corner-series")
    expect(beside).to_have_text("EARLIER  MR · MR head · 2025-01-01  3: OLD T1")
    expect(page.locator(f"{pane(page, 'prior')} .corner-slice")).to_have_text("Image 3 / 4")
    expect(page.locator("#corner-slice")).to_have_text("Image 2 / 3")
    page.hover(f"{pane(page, 'prior')} .slice")
    page.mouse.wheel(0, 40)
    expect(page.locator(f"{pane(page, 'prior')} .corner-slice")).to_have_text("Image 4 / 4")
    expect(page.locator("#corner-slice")).to_have_text("Image 2 / 3")
    expect(page.get_by_text("Not for primary diagnosis")).to_be_visible()
    page.keyboard.press("b")
    expect(beside).to_be_hidden()
    assert is_quiet(watched)


def test_without_an_earlier_study_there_is_nothing_beside(house: House, watched: Watched) -> None:
    open_case(house, watched, mr_series())
    expect(watched.page.locator("#prior")).to_be_disabled()


def test_the_view_comes_back_after_a_claim(house: House, watched: Watched) -> None:
    open_case(house, watched, mr_series(slices=9, size=16))
    page = watched.page
    page.keyboard.press("Home")
    expect(page.locator("#corner-slice")).to_have_text("Image 1 / 9")
    page.keyboard.press("Shift+Digit2")
    page.keyboard.press("h")
    window = page.inner_text("#corner-window")
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form").wait_for()
    wait_for_images(page)
    expect(page.locator("#corner-slice")).to_have_text("Image 1 / 9")
    expect(page.locator("#corner-window")).to_have_text(window)
    expect(page.locator("#edge-left")).to_have_text("L")


def test_changed_bytes_are_never_shown(house: House, watched: Watched) -> None:
    files = mr_series(slices=3, size=16)
    case_id = house.add(Wanted(), files=files)
    for path in (path for path in house.blobs._root.rglob("*") if path.is_file()):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    sign_in(watched.page, house)
    watched.page.goto(f"{house.url}/cases/{case_id}")
    expect(watched.page.locator("#viewer")).to_have_attribute("data-state", "empty", timeout=60_000)
    expect(watched.page.locator("#message")).to_contain_text("None of these images can be shown")
    expect(watched.page.locator("#slice")).to_be_hidden()


def test_a_broken_connection_keeps_what_is_there_and_says_so(house: House, watched: Watched) -> None:
    case_id = house.add(Wanted(), files=mr_series(slices=9, size=16))
    page = watched.page
    sign_in(page, house)
    page.route("**/pixels?from=*", lambda route: route.abort())
    page.goto(f"{house.url}/cases/{case_id}")
    wait_for_images(page)
    page.keyboard.press("End")
    expect(page.locator("#message")).to_contain_text("The connection broke")
    expect(page.locator("#corner-slice")).to_have_text("Image 5 / 9")
    page.unroute("**/pixels?from=*")
    page.keyboard.press("End")
    expect(page.locator("#corner-slice")).to_have_text("Image 9 / 9")
    expect(page.locator("#message")).to_be_hidden()


@contextmanager
def tablet(browser: Browser, house: House) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1024, "height": 768}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def swipe(page: Page, start: tuple[float, float], down: float) -> None:
    wire = page.context.new_cdp_session(page)
    x, y = start

    def send(kind: str, points: list[dict[str, float]]) -> None:
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", [{"x": x, "y": y}])
    for step in range(1, 11):
        send("touchMove", [{"x": x, "y": y + down * step / 10}])
        page.wait_for_timeout(30)
    send("touchEnd", [])


def test_one_finger_scrolls_and_a_chosen_tool_takes_over(house: House, browser: Browser) -> None:
    case_id = house.add(Wanted(), files=mr_series(slices=40, size=16))
    with tablet(browser, house) as page:
        sign_in(page, house)
        page.goto(f"{house.url}/cases/{case_id}")
        wait_for_images(page)
        window = page.inner_text("#corner-window")
        box = page.locator("#slice").bounding_box()
        assert box
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        swipe(page, middle, 120)
        expect(page.locator("#corner-slice")).not_to_have_text("Image 21 / 40")
        assert page.inner_text("#corner-window") == window
        scrolled = page.inner_text("#corner-slice")
        page.locator("[data-tool=window]").tap()
        swipe(page, middle, 120)
        expect(page.locator("#corner-window")).not_to_have_text(window)
        assert page.inner_text("#corner-slice") == scrolled
        for button in page.locator(".tools button:visible").all():
            size = button.bounding_box()
            assert size
            assert min(size["width"], size["height"]) >= 24


def test_the_hospitals_viewer_is_one_link_away(migrated_sqlite: Path, tmp_path: Path, browser: Browser) -> None:
    rules = ReadingRoom(viewer_link="https://pacs.example/open?uid={study}")
    with served_house(migrated_sqlite, tmp_path, rules=rules) as house, watched_page(browser, house) as watched:
        files = mr_series()
        open_case(house, watched, files)
        link = watched.page.get_by_role("link", name="Hospital viewer")
        uid = pydicom.dcmread(io.BytesIO(files[0])).StudyInstanceUID
        assert link.get_attribute("href") == f"https://pacs.example/open?uid={uid}"
        assert link.get_attribute("target") == "_blank"
        assert link.get_attribute("rel") == "noopener noreferrer"
