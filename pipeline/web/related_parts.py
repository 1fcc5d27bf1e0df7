"""The parts of a multipart/related body (RFC 2387), handed on one by one as soon as each is whole.

Why a part is put by first: a sender that drops in the middle of one must leave nothing behind, and an instance that was
cut short must never be taken for a broken one. What is put by has no name on the disk and goes with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pipeline.errors import RetryLater
from pipeline.web.access import Refused

LARGEST_PART = 768 << 20  #: bytes
MOST_PARTS = 10_000
LONGEST_BOUNDARY = 256  #: RFC 2046 says 70, and widespread PACS send 73
KEPT_IN_MEMORY = 4 << 20  #: bytes of one part; more goes to the disk


def boundary_of(content_type: str) -> str:
    """The boundary of a body of DICOM files. Raises Refused for any other body."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/related" or options.get(b"type", b"").lower() != b"application/dicom":
        expected = 'send multipart/related; type="application/dicom"'
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, expected)
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not 1 <= len(boundary) <= LONGEST_BOUNDARY:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"the content type names no boundary of 1 to {LONGEST_BOUNDARY} characters"
        )
    return boundary


class RelatedParts:
    """Reads a body chunk by chunk and gives each whole part to `take`; nothing is left of one that was cut short."""

    def __init__(self, boundary: str, take: Callable[[IO[bytes]], None], *, folder: Path | None) -> None:
        self._take, self._folder = take, folder
        self._part: IO[bytes] | None = None
        self._size = self._count = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._add,
                "on_part_end": self._hand_on,
                "on_end": self._note_end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Read on. Raises Refused, RetryLater, and whatever `take` raises."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is not divided into parts as its boundary says") from None

    def finish(self) -> None:
        """Raise Refused unless the body held a part and ended where its boundary says."""
        if not self._ended or not self._count:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body ends before its last part, or holds none")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._drop()

    def _begin(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {MOST_PARTS} parts")
        self._part, self._size = self._new_part(), 0

    def _new_part(self) -> IO[bytes]:
        return tempfile.SpooledTemporaryFile(
            max_size=KEPT_IN_MEMORY, dir=None if self._folder is None else str(self._folder)
        )

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > LARGEST_PART:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a part is larger than {LARGEST_PART >> 20} MiB")
        if self._part is None:
            return
        try:
            self._part.write(memoryview(data)[start:end])
        except OSError as error:
            raise RetryLater(f"a part could not be put by ({error.strerror}); free some of the disk") from None

    def _hand_on(self) -> None:
        if self._part is not None:
            self._part.seek(0)
            self._take(self._part)
        self._drop()

    def _note_end(self) -> None:
        self._ended = True

    def _drop(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
