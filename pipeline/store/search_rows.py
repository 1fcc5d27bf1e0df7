"""Finding cases by what a person at a desk has in hand: an accession number, a patient's ID or a pseudonym's beginning."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from pipeline.domain.case import CaseState
from pipeline.store.account_rows import Account
from pipeline.store.line_rows import PERSON, Line, header_of_revision, line_of, lines_of_items
from pipeline.store.reading_order import is_open
from pipeline.store.tables import case, identity, read, study, study_revision, worklist_item

MOST_FOUND: Final = 50
_PSEUDONYM = re.compile(r"[0-9a-f]{6,64}")


def find_cases(connection: Connection, text: str, *, asking: Account) -> list[Line]:
    """Cases of the newest revisions of the studies that match, newest first, as this account may see them.

    A case that this account has read is shown by that read alone, whatever else is asked of it since.
    """
    studies = _matching_studies(connection, text.strip())
    return [_line(connection, row.id, asking) for row in connection.execute(_cases(studies))]


def _matching_studies(connection: Connection, text: str) -> list[str]:
    asked: list[Select[tuple[str]]] = [
        select(identity.c.study_id).where(identity.c.accession_number == text),
        select(identity.c.study_id).where(identity.c.patient_id == text),
    ]
    if _PSEUDONYM.fullmatch(text.lower()):
        first = text.lower()
        pseudonym = study.c.patient_pseudonym
        asked.append(select(study.c.id).where(pseudonym >= first, pseudonym < f"{first}g"))
    found: dict[str, None] = {}
    for query in asked:
        found |= dict.fromkeys(connection.execute(query.limit(MOST_FOUND)).scalars())
    return list(found)[:MOST_FOUND]


def _cases(studies: list[str]) -> Select[Any]:
    return (
        select(case.c.id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .join(study, study.c.id == case.c.study_id)
        .where(case.c.study_id.in_(studies), case.c.state != CaseState.SUPERSEDED.value)
        .where(study_revision.c.revision == study.c.revision)
        .order_by(case.c.created_at.desc(), case.c.id)
        .limit(MOST_FOUND)
    )


def _line(connection: Connection, case_id: str, asking: Account) -> Line:
    """The line of this account's own read, else of the newest item, else of the case alone."""
    own = select(read.c.item_id, read.c.committed_at).where(read.c.case_id == case_id, read.c.reader_id == asking.id)
    row = connection.execute(own).one_or_none()
    if row is not None:
        (line,) = lines_of_items(connection, [row.item_id])
        return replace(line, read_at=row.committed_at)
    newest = (
        select(worklist_item.c.id)
        .where(worklist_item.c.case_id == case_id)
        .order_by(is_open().desc(), worklist_item.c.created_at.desc())
        .limit(1)
    )
    item_id = connection.execute(newest).scalar_one_or_none()
    if item_id is None:
        return _without_item(connection, case_id)
    (line,) = lines_of_items(connection, [item_id])
    return line


def _without_item(connection: Connection, case_id: str) -> Line:
    query = (
        select(
            case.c.id.label("case_id"),
            case.c.protocol,
            case.c.created_at,
            case.c.state,
            header_of_revision().label("header"),
            *(identity.c[name] for name in PERSON),
        )
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .where(case.c.id == case_id)
    )
    return line_of(connection.execute(query).one())
