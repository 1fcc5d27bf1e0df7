from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import HaltPipeline
from pipeline.hospital import Hospital, load_hospital

NODE = {"kind": "dimse", "ae_title": "PACS", "host": "pacs", "port": 104}
WEB = {"kind": "web", "url": "https://pacs/dicom-web/"}


def load(folder: Path, content: Any) -> Hospital:
    path = folder / "hospital.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_hospital(path)


def test_without_a_file_nobody_may_send_and_nothing_is_asked_or_sent(tmp_path: Path) -> None:
    hospital = load_hospital(tmp_path / "absent.yaml")
    assert (hospital.reception.peers, hospital.archive, hospital.results.destinations) == ((), None, ())
    assert hospital.reception.bind == "127.0.0.1"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"reception": {"peers": [{"ae_title": "A", "addresses": []}]}}, "reception.peers.0.addresses"),
        ({"reception": {"peers": [{"ae_title": "A", "addresses": ["10.0.0.999"]}]}}, "reception.peers.0.addresses"),
        ({"reception": {"peers": [{"ae_title": "A" * 17, "addresses": ["::1"]}]}}, "reception.peers.0.ae_title"),
        (
            {"reception": {"peers": [{"ae_title": "A", "addresses": ["10.0.0.0/24"], "port": 104}]}},
            "one host's address first",
        ),
        ({"reception": {"ae_title": " A"}}, "reception.ae_title"),
        ({"reception": {"unknown": 1}}, "reception.unknown"),
        ({"archive": {"node": NODE, "retrieve": "wado"}}, "retrieve is wado"),
        ({"archive": {"node": WEB, "retrieve": "move"}}, "retrieve is wado"),
        ({"archive": {"node": {"kind": "web", "url": "file:///etc"}, "retrieve": "wado"}}, "begins with https"),
        ({"results": {"fhir": [{"name": "ehr"}]}}, "either a folder or a url"),
        ({"results": {"fhir": [{"name": "ehr", "folder": "a", "url": "https://b"}]}}, "either a folder or a url"),
        ({"results": {"pacs": [{"name": "a", "node": NODE}, {"name": "a", "node": WEB}]}}, "two destinations"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_line_is_named_with_its_place(tmp_path: Path, content: Any, place: str) -> None:
    with pytest.raises(HaltPipeline, match=place.replace(".", r"\.")):
        load(tmp_path, content)


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    tls = {"certificate": "ours.pem", "key": "keys/ours.key", "authority": "/etc/ca.pem"}
    hospital = load(tmp_path, {"reception": {"tls": tls}, "results": {"fhir": [{"name": "ehr", "folder": "out"}]}})
    assert hospital.reception.tls is not None
    assert hospital.reception.tls.key == tmp_path / "keys" / "ours.key"
    assert hospital.reception.tls.authority == Path("/etc/ca.pem")
    assert hospital.results.fhir[0].folder == tmp_path / "out"


def test_a_token_is_read_from_its_file_and_its_absence_has_a_cure(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" secret\n")
    fhir = [{"name": "ehr", "url": "https://ehr", "token_file": "token"}]
    hospital = load(tmp_path, {"results": {"fhir": fhir}})
    assert hospital.results.fhir[0].token() == "secret"
    (tmp_path / "token").unlink()
    with pytest.raises(HaltPipeline, match="token_file"):
        hospital.results.fhir[0].token()
