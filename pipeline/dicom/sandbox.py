"""The sandbox: bytes from outside are parsed and decoded in a limited child process, never in this one.

DICOM has no integrity check and its parsers no limits: a 0.5 MB file may unpack to gigabytes, a damaged one may raise a
dozen types of exception or crash a decoder. Whatever happens there is a verdict here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Final, Self

import numpy as np

from pipeline.dicom.deidentify import DeidentificationProfile, DeidentifiedInstance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox_process import ChildProcess, plain
from pipeline.dicom.sandbox_wire import BrokenWireError, Message
from pipeline.dicom.series_to_volume import MAX_VOXELS
from pipeline.domain.case import Reason
from pipeline.domain.study import InstanceHeader
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, HaltPipeline, RejectInstance, RetryLater

MAX_FILE_BYTES: Final = 768 * 2**20
FILES_PER_TURN: Final = 32  #: a series has the wall clock of one call for every so many files begun
GLANCE_SECONDS: Final = 2.0  #: for the beginning of a file that went beyond its limits
WORN_SHARE: Final = 0.6  #: a child whose address space is fuller than this is replaced
_PROFILE: Final = DeidentificationProfile()


class Sandbox:
    """A limited child process that inspects, de-identifies and reads what came; safe to share between threads.

    `memory_mb` bounds the child's address space, `seconds` the wall clock and processor time of one call. The child is
    replaced after `calls_per_child` calls and whenever it dies, hangs or wears out.
    """

    def __init__(self, *, memory_mb: int = 2048, seconds: float = 20.0, calls_per_child: int = 5000) -> None:
        self._memory_bytes = memory_mb * 2**20
        self._seconds = seconds
        self._calls_per_child = calls_per_child
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child; later calls raise HaltPipeline."""
        with self._lock:
            self._closed = True
            self._end_child()

    def inspect(self, path: Path) -> InstanceHeader:
        """The header of the instance in that file, after every check of `headers.inspect_instance`.

        Raises RefusedInstance (a RejectInstance with `.header` and `.is_image`), or RetryLater when the file cannot be
        opened.
        """
        _refuse_odd_file(path)
        with self._lock:
            try:
                reply = self._ask({"call": "inspect", "path": str(path.absolute())}, self._seconds)
            except TimeoutError:
                raise self._beyond_limits(path, "reading took longer than allowed") from None
            except BrokenWireError:
                raise self._beyond_limits(path, "reading needed more memory or time than allowed") from None
            self._replace_if_worn()
        return _header_or_refusal(reply)

    def _beyond_limits(self, path: Path, detail: str) -> RefusedInstance:
        """The refusal of a file that killed or outlasted the child, with its study where its beginning tells it."""
        try:
            header = _header_or_refusal(
                self._ask_once({"call": "glance", "path": str(path.absolute())}, GLANCE_SECONDS)
            )
        except (BrokenWireError, TimeoutError, RejectInstance, RetryLater):
            header = None
        return RefusedInstance("resource_limit", detail, header=header, is_image=header is not None)

    def deidentify(
        self, path: Path, *, key: bytes, profile: DeidentificationProfile = _PROFILE
    ) -> DeidentifiedInstance:
        """The instance in that file without identity, as `deidentify.deidentified_instance` makes it.

        Raises RejectInstance, RetryLater when the file cannot be opened, ValueError for an empty key.
        """
        if not key:
            raise ValueError("de-identification needs a key")
        _refuse_odd_file(path)
        request = {"call": "deidentify", "path": str(path.absolute()), "key": key.hex(), "profile": asdict(profile)}
        with self._lock:
            try:
                instance = self._deidentified(self._ask(request, self._seconds))
            except TimeoutError:
                raise RejectInstance("resource_limit", "de-identifying took longer than allowed") from None
            except (BrokenWireError, KeyError, TypeError, ValueError):
                self._end_child()
                raise RejectInstance("resource_limit", "de-identifying went beyond its limits") from None
            finally:
                self._replace_if_worn()
        return instance

    def read_series(self, paths: Sequence[Path], digests: Sequence[str]) -> Volume:
        """The volume of the series in those files, whose SHA-256 digests must be `digests`, in the same order.

        Raises DeferCase.
        """
        request = {"call": "read_series", "paths": [str(path.absolute()) for path in paths], "digests": list(digests)}
        seconds = self._seconds * (1 + len(paths) // FILES_PER_TURN)
        with self._lock:
            try:
                volume = self._volume(self._ask(request, seconds))
            except TimeoutError:
                raise DeferCase(Reason.UNREADABLE, "reading the series took longer than allowed") from None
            except (BrokenWireError, KeyError, TypeError, ValueError):
                self._end_child()
                raise DeferCase(Reason.UNREADABLE, "reading the series went beyond its limits") from None
            finally:
                self._replace_if_worn()
        return volume

    def _ask(self, request: Message, seconds: float) -> Message:
        """The child's reply. A child that gave out is believed only if it was fresh: an old one may be worn."""
        fresh = self._child is None
        try:
            reply = self._ask_once(request, seconds)
        except BrokenWireError:
            if fresh:
                raise
            return self._settled(self._ask_once(request, seconds))
        if "exhausted" in reply and not fresh:
            self._end_child()
            reply = self._ask_once(request, seconds)
        return self._settled(reply)

    def _ask_once(self, request: Message, seconds: float) -> Message:
        if self._closed:
            raise HaltPipeline("the sandbox is closed: open a new one")
        if self._child is None:
            self._child = ChildProcess.start(memory_bytes=self._memory_bytes)
        try:
            return self._child.call(request | {"seconds": seconds}, time.monotonic() + seconds, _is_within_limits)
        except BaseException:
            self._end_child()
            raise

    def _settled(self, reply: Message) -> Message:
        if "exhausted" in reply:
            self._end_child()
            raise BrokenWireError
        return reply

    def _volume(self, reply: Message) -> Volume:
        if "deferred" in reply:
            reason, detail = reply["deferred"]
            raise DeferCase(Reason(reason), str(detail))
        if self._child is None or "shape" not in reply:
            raise BrokenWireError
        voxels = self._child.take_voxels(tuple(reply["shape"]))
        return Volume(
            voxels, np.array(reply["affine"], dtype=np.float64), plain(reply["sources"]), plain(reply["quality"])
        )

    def _deidentified(self, reply: Message) -> DeidentifiedInstance:
        if "refused" in reply:
            reason, detail = reply["refused"]
            raise RejectInstance(str(reason), str(detail))
        if "unopened" in reply:
            raise RetryLater(f"a received file cannot be opened ({reply['unopened']})")
        if "failed" in reply:
            raise RejectInstance("undecodable", f"the file cannot be read ({reply['failed']})")
        size = reply.get("size")
        if self._child is None or not isinstance(size, int) or size < 1:
            raise BrokenWireError
        data = self._child.take_voxels((-(-size // 4),)).view(np.uint8)[:size].tobytes()
        return DeidentifiedInstance(
            data=data,
            patient=str(reply["patient"]),
            study_instance_uid=str(reply["study_instance_uid"]),
            series_instance_uid=str(reply["series_instance_uid"]),
            sop_instance_uid=str(reply["sop_instance_uid"]),
        )

    def _replace_if_worn(self) -> None:
        child = self._child
        if child is None:
            return
        child.give_back_memory()
        if child.calls >= self._calls_per_child or child.address_space > WORN_SHARE * self._memory_bytes:
            self._end_child()

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _is_within_limits(size: int) -> bool:
    return 0 < size <= 4 * MAX_VOXELS


def _refuse_odd_file(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise RetryLater(f"a received file cannot be opened ({type(error).__name__})") from None
    if not S_ISREG(found.st_mode):
        raise RefusedInstance("not_dicom", "not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise RefusedInstance("too_large", f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")


def _header_or_refusal(reply: Message) -> InstanceHeader:
    header = reply.get("header")
    try:
        known = InstanceHeader(**{key: plain(value) for key, value in header.items()}) if header else None
    except (TypeError, AttributeError):
        raise RefusedInstance("undecodable", "the reading process gave no sensible answer") from None
    if "refused" in reply:
        reason, detail = reply["refused"]
        raise RefusedInstance(str(reason), str(detail), header=known, is_image=bool(reply.get("is_image")))
    if "unopened" in reply:
        raise RetryLater(f"a received file cannot be opened ({reply['unopened']})")
    if known is None:
        raise RefusedInstance("undecodable", f"the file cannot be read ({reply.get('failed', 'no answer')})")
    return known
