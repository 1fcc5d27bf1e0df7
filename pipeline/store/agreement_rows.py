"""Reads side by side: first with second, and each with the model's answer, as agreement tables without patients.

Only cases count that nobody is asked to read any more: a table that moved with an open case would tell its next reader
what the model, or a colleague, said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, exists, select

from pipeline.domain.agreement import agreement_of, rate_interval
from pipeline.domain.case import CaseState
from pipeline.domain.second_reads import ADJUDICATION, FIRST, SECOND
from pipeline.store.reading_order import is_open
from pipeline.store.tables import account, case, decision, read, worklist_item

_UNREADABLE = "cannot_be_read"
_AMEND = "amend"
Labelled = tuple[tuple[str, str], tuple[str, str]]
"""Protocol and label of a row, and two answers."""


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """How often two say the same, and Cohen's kappa with its 95 % interval; what is undefined is None, and `said` why."""

    protocol: str
    label: str
    n: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None
    said: str


@dataclass(frozen=True, kw_only=True)
class OverrideRow:
    """How often a reader's blind reads name another class than the model's likeliest, which they had not seen."""

    protocol: str
    label: str
    n: int
    overridden: int
    amended: int  #: reads that their reader would make otherwise since the model's answer was shown
    rate: float | None
    low: float | None  #: of the 95 % Wilson interval
    high: float | None


@dataclass(frozen=True, kw_only=True)
class AgreementTables:
    """First against second blind reads, per protocol, reader and pair; first reads, and each reader's, against the model."""

    protocols: tuple[AgreementRow, ...]
    readers: tuple[AgreementRow, ...]
    pairs: tuple[AgreementRow, ...]
    with_model: tuple[AgreementRow, ...]
    overrides: tuple[OverrideRow, ...]


@dataclass(frozen=True, kw_only=True)
class _Blind:
    """One read made before anything was shown."""

    round: int
    protocol: str
    reader: str
    finding: str
    amended: bool
    likeliest: str | None  #: of the model; None where it did not speak


def tables(connection: Connection, *, since: datetime | None, asking: str = "") -> AgreementTables:
    """Agreement over cases whose reading ended since that moment, or ever."""
    cases = [
        [_blind(row) for row in rows] for _, rows in groupby(_rows(connection, since, asking), lambda row: row.case_id)
    ]
    both = [(reads[0], reads[1]) for reads in cases if [read.round for read in reads] == [FIRST, SECOND]]
    compared = [one for reads in cases for one in reads if one.likeliest and one.finding != _UNREADABLE]
    return AgreementTables(
        protocols=_table((one.protocol, "all readers", one, two) for one, two in both),
        readers=_table(line for one, two in both for line in _by_reader(one, two)),
        pairs=_table(_by_pair(one, two) for one, two in both),
        with_model=_with_model(compared),
        overrides=_overrides(compared),
    )


def _rows(connection: Connection, since: datetime | None, asking: str) -> Sequence[Row[Any]]:
    waits = exists().where(worklist_item.c.case_id == read.c.case_id, is_open())
    own = read.alias()
    unseen = exists().where(own.c.case_id == read.c.case_id, own.c.reader_id == asking, own.c.revealed_at.is_(None))
    said = decision.c.evidence["analysis"]["uncertainty"]
    query = (
        select(
            read.c.case_id,
            read.c.round,
            read.c.finding,
            read.c.agreement,
            account.c.name,
            case.c.protocol,
            said["classes"].label("classes"),
            said["probabilities"].label("probabilities"),
        )
        .join(account, account.c.id == read.c.reader_id)
        .join(case, case.c.id == read.c.case_id)
        .outerjoin(decision, decision.c.case_id == read.c.case_id)
        .where(~waits, ~unseen, case.c.state != CaseState.SUPERSEDED, read.c.round < ADJUDICATION)
        .order_by(read.c.case_id, read.c.round)
    )
    if since is not None:
        late = read.alias()
        query = query.where(exists().where(late.c.case_id == read.c.case_id, late.c.committed_at >= since))
    return connection.execute(query).all()


def _blind(row: Row[Any]) -> _Blind:
    classes, shares = row.classes or (), row.probabilities or ()
    known = classes and len(classes) == len(shares) and all(isinstance(share, int | float) for share in shares)
    return _Blind(
        round=row.round,
        protocol=row.protocol,
        reader=row.name,
        finding=row.finding,
        amended=row.agreement == _AMEND,
        likeliest=classes[shares.index(max(shares))] if known else None,
    )


def _by_reader(one: _Blind, two: _Blind) -> list[tuple[str, str, _Blind, _Blind]]:
    return [(own.protocol, own.reader, own, other) for own, other in ((one, two), (two, one))]


def _by_pair(one: _Blind, two: _Blind) -> tuple[str, str, _Blind, _Blind]:
    first, second = sorted((one, two), key=lambda blind: blind.reader)
    return one.protocol, f"{first.reader} and {second.reader}", first, second


def _table(lines: Iterable[tuple[str, str, _Blind, _Blind]]) -> tuple[AgreementRow, ...]:
    return _rows_of(((protocol, label), (one.finding, two.finding)) for protocol, label, one, two in lines)


def _with_model(compared: Sequence[_Blind]) -> tuple[AgreementRow, ...]:
    firsts = (one for one in compared if one.round == FIRST)
    return _rows_of(((one.protocol, "reader and model"), (one.finding, str(one.likeliest))) for one in firsts)


def _rows_of(labelled: Iterable[Labelled]) -> tuple[AgreementRow, ...]:
    made = []
    for (protocol, label), group in _grouped(labelled, lambda line: line[0]):
        found = agreement_of([answers for _, answers in group])
        made.append(
            AgreementRow(
                protocol=protocol,
                label=label,
                n=found.n,
                agreement=found.agreement,
                kappa=found.kappa,
                low=found.low,
                high=found.high,
                said=found.said,
            )
        )
    return tuple(made)


def _grouped(lines: Iterable[Any], key: Callable[[Any], tuple[str, str]]) -> list[tuple[tuple[str, str], list[Any]]]:
    return [(name, list(group)) for name, group in groupby(sorted(lines, key=key), key)]


def _overrides(compared: Sequence[_Blind]) -> tuple[OverrideRow, ...]:
    made = []
    for (protocol, label), reads in _grouped(compared, lambda one: (one.protocol, one.reader)):
        overridden = sum(one.finding != one.likeliest for one in reads)
        low, high = rate_interval(overridden, len(reads)) or (None, None)
        made.append(
            OverrideRow(
                protocol=protocol,
                label=label,
                n=len(reads),
                overridden=overridden,
                amended=sum(one.amended for one in reads),
                rate=overridden / len(reads),
                low=low,
                high=high,
            )
        )
    return tuple(made)
