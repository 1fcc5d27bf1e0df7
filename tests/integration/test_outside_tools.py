"""What we write is held against other people's programs: a validator, a PACS, the DICOM toolkit."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pydicom
import pytest

from pipeline.dicom.phantom_plan import StudyOrder
from pipeline.dicom.phantoms import make_study
from pipeline.dicom.series_to_volume import read_series_in_process

pytestmark = pytest.mark.dicom_tools


def program(name):
    """Debian's program of that name; without it a skip, and a failure where CI promises that it is there."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is absent: 'make system' installs it")
    if found is None:
        pytest.skip(f"{name} is absent: 'make system' installs it")
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return make_study(folder, StudyOrder(patient=1, study=1, split=None, finding=True, defect=None), seed=5)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    orthanc, folder = program("Orthanc"), tmp_path_factory.mktemp("orthanc")
    web, dicom = free_port(), free_port()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpPort": web,
                "DicomPort": dicom,
                "DicomAet": "PACS",
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "StableAge": 1,
            }
        )
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([orthanc, folder / "config.json"], stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{web}/system")
        yield web, dicom
    finally:
        process.kill()
        process.wait()


def _wait_for(url):
    for _ in range(150):
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"nothing answers at {url}")


def errors_of(path):
    result = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, check=False)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]


def test_every_image_of_a_phantom_keeps_the_standard_as_the_validator_reads_it(study):
    assert [error for path in study.files[::7] for error in errors_of(path)] == []


def test_the_validator_sees_an_image_without_its_orientation(study, tmp_path):
    broken = pydicom.dcmread(study.files[0])
    del broken.ImageOrientationPatient
    broken.save_as(tmp_path / "broken.dcm")

    assert errors_of(tmp_path / "broken.dcm") != []


def test_a_pacs_takes_a_phantom_study_in_as_one_study_and_gives_the_same_volume_back(study, pacs, tmp_path):
    web, dicom = pacs
    series = sorted(study.series_folder.iterdir())
    command = [program("dcmsend"), "-aec", "PACS", "127.0.0.1", str(dicom), *series]
    sent = subprocess.run(command, capture_output=True, text=True, check=False)
    assert sent.returncode == 0, sent.stderr

    found = [asked(web, f"/instances/{name}/file") for name in json.loads(asked(web, "/instances"))]
    for number, data in enumerate(found):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    before, after = read_series_in_process(series), read_series_in_process(sorted(tmp_path.glob("*.dcm")))

    assert len(json.loads(asked(web, "/studies"))) == 1
    assert np.array_equal(before.voxels, after.voxels)
    assert np.array_equal(before.affine, after.affine)


def asked(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read()
