"""What no request may hold, whatever the endpoint: looked at once, for paths, queries, forms and JSON alike.

NUL and half characters are text that PostgreSQL cannot keep; a name that stands twice means two things; NaN, infinity
and numbers beyond 53 bits are no JSON that two programs read alike (RFC 7493); deep nesting is nobody's data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from fastapi import Depends, Request
from starlette.datastructures import UploadFile

DEEPEST: Final = 32  #: levels of a JSON body
LARGEST: Final = 2**53 - 1
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class Unsound(Exception):
    """The request holds what no endpoint takes; the text says what, and never repeats it."""

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.pointer = pointer


async def sound_input(request: Request) -> None:
    """Look at everything that was sent, before any of it is used. Raises Unsound."""
    for value in (*request.path_params.values(), *_of_pairs(request.query_params.multi_items())):
        _check_text(str(value), None)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _FORMS:
        for value in _of_pairs((await request.form()).multi_items()):
            _check_text(value, None)
    elif (kind == "application/json" or kind.endswith("+json")) and (body := await request.body()):
        _check(read_json(body), "")


SOUND: Final = [Depends(sound_input)]  #: what every router for people and programs is included with


def _of_pairs(pairs: Iterable[tuple[str, str | UploadFile]]) -> Iterable[str]:
    for name, value in pairs:
        yield name
        yield value if isinstance(value, str) else value.filename or ""


def read_json(body: bytes) -> Any:
    """The value of a JSON text. Raises Unsound."""
    try:
        return json.loads(body, object_pairs_hook=_without_twins, parse_constant=_no_number)
    except RecursionError:
        raise Unsound(f"the body is nested deeper than {DEEPEST} levels") from None
    except ValueError:
        raise Unsound("the body is not JSON in UTF-8") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise Unsound("the body names a field twice; send it once")
    return found


def _no_number(_: str) -> NoReturn:
    raise Unsound("the body holds NaN or an infinity, which are no JSON; leave the field out")


def _check(value: Any, pointer: str, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise Unsound(f"the body is nested deeper than {DEEPEST} levels", pointer)
    if isinstance(value, str):
        _check_text(value, pointer)
    elif isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise Unsound("the body holds a number beyond 53 bits", pointer)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check(inner, f"{pointer}/{index}", depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name, pointer)
            _check(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", depth + 1)


def _check_text(value: str, pointer: str | None) -> None:
    if "\0" in value:
        raise Unsound("the request holds a NUL character; leave it out", pointer)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Unsound("the request holds half a character (a lone surrogate); send whole characters", pointer)
