"""The door from the command line, as an engineer connects it: dcmtk sends, Orthanc answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.dicom_files import small_slice
from tests.orthanc import Orthanc, free_port, need, running_orthanc

pytestmark = pytest.mark.dicom_tools
TODAY = {"StudyDate": f"{datetime.now(UTC):%Y%m%d}", "StudyTime": "080000", "PatientSex": "O"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECONDREAD_"))}
    return kept | {"SECONDREAD_HOME": str(home), "PYTHONPATH": str(Path.cwd()), "SECONDREAD_RESERVE_MB": "0"}


def secondread(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_home(home: Path, content: dict[str, Any]) -> None:
    assert secondread(home, "init").returncode == 0
    (home / "hospital.yaml").write_text(yaml.safe_dump(content))


@contextmanager
def receiving(home: Path) -> Iterator[None]:
    """`secondread receive` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "receive"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "listens on" in process.stdout.readline()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def write_slices(folder: Path, *numbers: int, **changes: Any) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:02}.dcm" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        path.write_bytes(small_slice(number, **TODAY | changes))
    return [str(path) for path in paths]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need(f"/usr/bin/{program}"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_dcmtk_echoes_and_sends_and_the_status_counts_it(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    peers = [{"ae_title": "STORESCU", "addresses": ["127.0.0.1"]}]
    make_home(home, {"reception": {"port": port, "peers": peers}})
    with receiving(home):
        assert run("echoscu", "-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port)).returncode == 0
        assert run("echoscu", "-aet", "NOBODY", "-aec", "SECONDREAD", "127.0.0.1", str(port)).returncode != 0
        paths = write_slices(tmp_path / "sent", *range(1, 17))
        done = run("storescu", "-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port), *paths)
        assert done.returncode == 0, done.stderr
    state = json.loads(secondread(home, "status", "--json").stdout)
    assert state["instances"]["accepted"] == 16
    assert state["studies"]["open"] == 1


def certificate(folder: Path, name: str, authority: Any = None, *, days: int = 90) -> Any:
    """A key and a certificate for 127.0.0.1 signed by `authority`, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if authority is None else authority
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    unlocked = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unlocked)
    (folder / f"{name}.key").write_bytes(private)
    return subject, key


def test_with_tls_only_a_peer_with_our_authoritys_certificate_is_heard(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    authority = certificate(tmp_path, "authority")
    certificate(tmp_path, "ours", authority)
    certificate(tmp_path, "theirs", authority)
    certificate(tmp_path, "stranger")
    tls = {
        "certificate": str(tmp_path / "ours.pem"),
        "key": str(tmp_path / "ours.key"),
        "authority": str(tmp_path / "authority.pem"),
    }
    peers = [{"ae_title": "STORESCU", "addresses": ["127.0.0.1"]}]
    make_home(home, {"reception": {"port": port, "peers": peers, "tls": tls}})
    with receiving(home):

        def echo(who: str) -> int:
            files = [str(tmp_path / f"{who}.key"), str(tmp_path / f"{who}.pem")]
            trust = ["+cf", str(tmp_path / "authority.pem")]
            names = ["-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port)]
            return run("echoscu", "+tls", *files, *trust, *names).returncode

        assert echo("theirs") == 0
        assert echo("stranger") != 0
        plain = run("echoscu", "-to", "5", "-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port))
        assert plain.returncode != 0
        assert echo("theirs") == 0, "the refused ones keep nobody out"
    (check,) = [c for c in doctor(home) if c["check"] == "reception TLS"]
    assert check["state"] == "well"


def doctor(home: Path) -> list[dict[str, str]]:
    return list(json.loads(secondread(home, "doctor", "--json").stdout))


def node(orthanc: Orthanc) -> dict[str, Any]:
    return {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}


def test_pull_deliver_and_reconcile_name_what_is_missing_and_end_with_nothing(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.clear()
    home = tmp_path / "home"
    back = {"pacs": [{"name": "back", "node": node(orthanc)}]}
    make_home(home, {"archive": {"node": node(orthanc), "retrieve": "get"}, "results": back})
    for number in range(1, 17):
        orthanc.upload(small_slice(number, **TODAY))
    missing = secondread(home, "reconcile", "--days", "2", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["missing_studies"] == ["1.2.3.4"]
    pulled = secondread(home, "pull", "--json")
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)["fetched"] == 1
    whole = secondread(home, "reconcile", "--days", "2", "--json")
    assert (whole.returncode, json.loads(whole.stdout)["missing_studies"]) == (0, [])
    assert secondread(home, "triage", "--seal-now").returncode == 1, "no release may speak yet"
    delivered = secondread(home, "deliver", "--json")
    assert delivered.returncode == 0, delivered.stderr
    assert json.loads(delivered.stdout)["proven"] == 1
    again = json.loads(secondread(home, "pull", "--json").stdout)
    assert (again["wanted"], again["fetched"]) == (0, 0), "our own report is not fetched back"
    state = json.loads(secondread(home, "status", "--json").stdout)
    assert state["door"]["deliveries"]["proven"] == 1
    assert state["door"]["reconciled"]["missing_studies"] == 0


def test_reconcile_names_a_single_instance_that_never_came(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.clear()
    home = tmp_path / "home"
    make_home(home, {"archive": {"node": node(orthanc), "retrieve": "get"}})
    for number in range(1, 17):
        orthanc.upload(small_slice(number, **TODAY))
    write_slices(tmp_path / "some", *range(1, 16))
    secondread(home, "ingest", str(tmp_path / "some"))
    found = secondread(home, "reconcile", "--json")
    assert found.returncode == 1
    (check,) = [c for c in doctor(home) if c["check"] == "reconciled"]
    assert (check["state"], "0 studies and 1 instances" in check["detail"]) == ("amiss", True)
    assert json.loads(found.stdout)["missing_instances"] == {"1.2.3.4": ["1.2.3.4.5.16"]}


def test_the_doctor_names_the_cure_of_each_thing_amiss_at_the_door(orthanc: Orthanc, tmp_path: Path) -> None:
    home = tmp_path / "home"
    nowhere = {"kind": "dimse", "ae_title": "GONE", "host": "127.0.0.1", "port": 1}
    destinations = {
        "pacs": [{"name": "gone", "node": nowhere}],
        "fhir": [{"name": "ehr", "folder": str(tmp_path / "absent")}],
    }
    make_home(home, {"archive": {"node": node(orthanc), "retrieve": "move"}, "results": destinations})
    found = {check["check"]: check for check in doctor(home)}
    assert found["pacs: echo"]["state"] == found["pacs: find"]["state"] == "well"
    assert found["pacs: move"]["state"] == "note"
    assert "known nodes" in found["pacs: move"]["cure"]
    assert found["results: gone: echo"]["state"] == "amiss"
    assert "port" in found["results: gone: echo"]["cure"]
    assert found["results: ehr"]["state"] == "amiss"
    assert found["reception"]["state"] == "note"


def test_an_ended_certificate_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    certificate(tmp_path, "old", days=-1)
    tls = {
        name: str(tmp_path / file)
        for name, file in (("certificate", "old.pem"), ("key", "old.key"), ("authority", "old.pem"))
    }
    make_home(home, {"reception": {"tls": tls}})
    (check,) = [c for c in doctor(home) if c["check"] == "reception TLS"]
    assert (check["state"], check["cure"]) == ("amiss", "renew it")


def test_a_command_without_a_pacs_says_where_to_name_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, {})
    for command, where in (("pull", "archive"), ("deliver", "results"), ("reconcile", "archive")):
        done = secondread(home, command)
        assert done.returncode == 2
        assert where in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_wrong_line_of_the_hospital_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, {"reception": {"peers": [{"ae_title": "A", "addresses": ["not an address"]}]}})
    done = secondread(home, "receive")
    assert done.returncode == 2
    assert "reception.peers.0.addresses" in done.stderr


def test_a_receiver_killed_at_work_has_lost_nothing_that_it_confirmed(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    peers = [{"ae_title": "STORESCU", "addresses": ["127.0.0.1"]}]
    make_home(home, {"reception": {"port": port, "peers": peers}})
    paths = write_slices(tmp_path / "sent", *range(1, 17))
    process = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "receive"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    sender = subprocess.Popen(
        [need("/usr/bin/storescu"), "-v", "-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port), *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(0.3)
    process.kill()
    process.communicate()
    told, _ = sender.communicate(timeout=60)
    confirmed = told.count("Received Store Response (Success)")
    held = json.loads(secondread(home, "status", "--json").stdout)["instances"]
    assert held["accepted"] >= confirmed
    assert held["unaccounted"] == 0
    with receiving(home):
        run("storescu", "-aet", "STORESCU", "-aec", "SECONDREAD", "127.0.0.1", str(port), *paths)
    held = json.loads(secondread(home, "status", "--json").stdout)["instances"]
    assert held["accepted"] == 16
