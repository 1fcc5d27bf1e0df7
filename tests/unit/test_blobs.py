from __future__ import annotations

import hashlib
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import DeferCase, HaltPipeline, RetryLater
from pipeline.store.blobs import BlobStore

DATA = b"some bytes"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_bytes_are_found_under_their_digest(blobs: BlobStore) -> None:
    assert blobs.put(DATA) == DIGEST
    assert blobs.verified(DIGEST).read_bytes() == blobs.read(DIGEST) == DATA
    assert blobs.path(DIGEST).parent.name == DIGEST[:2]


def test_a_file_is_read_once_and_hashed_on_the_way(blobs: BlobStore) -> None:
    stored = blobs.put_file(io.BytesIO(b"x" * 3_000_000))
    assert (stored.sha256, stored.size) == (hashlib.sha256(b"x" * 3_000_000).hexdigest(), 3_000_000)


def test_storing_twice_changes_nothing_and_heals_rot(blobs: BlobStore) -> None:
    blobs.put(DATA)
    before = blobs.path(DIGEST).stat().st_ino
    blobs.put(DATA)
    assert blobs.path(DIGEST).stat().st_ino == before
    blobs.path(DIGEST).write_bytes(b"rot")
    blobs.put(DATA)
    assert blobs.read(DIGEST) == DATA


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"rot"), lambda path: path.unlink()])
def test_bytes_that_changed_or_went_are_never_handed_out(blobs: BlobStore, change) -> None:
    blobs.put(DATA)
    change(blobs.path(DIGEST))
    with pytest.raises(DeferCase, match="UNREADABLE"):
        blobs.verified(DIGEST)
    with pytest.raises(DeferCase, match="UNREADABLE"):
        blobs.read(DIGEST)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 63 + "/"])
def test_only_digests_are_paths(blobs: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        blobs.path(name)


def test_the_order_of_one_write_is_file_rename_folder(blobs: BlobStore, monkeypatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append("fsync folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "fsync file")
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    blobs.put(DATA)
    assert done == ["fsync file", "rename", "fsync folder"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_gives_out_leaves_no_name_and_no_rest(blobs: BlobStore, monkeypatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RetryLater, match="No space left"):
        blobs.put(DATA)
    assert not blobs.path(DIGEST).exists()
    assert list((blobs.path(DIGEST).parents[1] / "incoming").iterdir()) == []


def test_old_rests_of_killed_writers_are_swept_and_young_ones_stay(blobs: BlobStore) -> None:
    incoming = blobs.path(DIGEST).parents[1] / "incoming"
    now = datetime.now(UTC)
    for name, age in {"old": timedelta(hours=2), "young": timedelta(minutes=2)}.items():
        (incoming / name).touch()
        moment = (now - age).timestamp()
        os.utime(incoming / name, (moment, moment))
    assert blobs.sweep(now) == 1
    assert [path.name for path in incoming.iterdir()] == ["young"]


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HaltPipeline, match="image store"):
        BlobStore(tmp_path / "file" / "blobs")


def test_others_cannot_look_in(blobs: BlobStore) -> None:
    blobs.put(DATA)
    assert blobs.path(DIGEST).stat().st_mode & 0o077 == 0
    assert blobs.path(DIGEST).parent.stat().st_mode & 0o077 == 0
