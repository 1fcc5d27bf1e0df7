"""The door's flows as a worker runs them, on a house that was handed to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows import door_flows
from flows.bootstrap import House
from flows.workplace import _HANDED, Workplace, silent
from tests.door_house import door_house
from tests.orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.dicom_tools


@contextmanager
def at_work_in(house: House) -> Iterator[None]:
    token = _HANDED.set(Workplace(house=house, on_progress=silent))
    yield
    _HANDED.reset(token)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def test_each_flow_does_its_work_and_holds_no_identity_in_its_result(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(door_flows, "create_markdown_artifact", lambda text, **_: told.append(text))
    node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    hospital = {"archive": {"node": node, "retrieve": "get"}, "results": {"pacs": [{"name": "back", "node": node}]}}
    with door_house(tmp_path, hospital=hospital) as house, at_work_in(house):
        assert door_flows.pull_flow.fn()["listed"] == 0
        assert door_flows.delivery_flow.fn()["planned"] == 0
        assert door_flows.reconciliation_flow.fn()["studies"] == 0
    assert told == ["# 0 studies compared\n\n0 studies and 0 instances missing\n"]
