"""The comparison with torch-uncertainty, on a release of a few thousand weights."""

from __future__ import annotations

import pytest

from models.release import Release
from tests.benchmarks.uq_against_peers import COLUMNS, SYSTEMS, compare
from tests.unit.test_evaluate import images, release  # noqa: F401 - the fixture

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other library


def test_both_libraries_agree_where_both_define_a_number(release: Release) -> None:  # noqa: F811
    found = compare(release, dict(images()), "test")
    assert [line["name"] for line in found["agreement"] if not line["agrees"]] == []
    assert len(found["agreement"]) == 7
    assert set(found["systems"]) == set(SYSTEMS)
    assert all(row[name] is not None for row in found["systems"].values() for name in COLUMNS)
