"""Chromium, a served reading room and a watched page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser_room import QUIET, House, Watched, served_house, watched_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "Chromium is absent: 'make system' installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def house(migrated_sqlite: Path, tmp_path: Path) -> Iterator[House]:
    with served_house(migrated_sqlite, tmp_path) as served:
        yield served


@pytest.fixture
def watched(browser: Browser, house: House) -> Iterator[Watched]:
    with watched_page(browser, house) as seen:
        yield seen
