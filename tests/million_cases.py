"""A store with very many open items, written by the database itself so that a million takes seconds.

    python -m tests.million_cases sqlite:////tmp/million.db [--cases 1000000] [--now]

Each case is a sealed study with its person, revision, decision and open worklist item; there are no images. Urgency, specialty
and age are drawn by a generator that gives both kinds of database the same rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import insert, text

from pipeline.protocol import TriageProtocol
from pipeline.store.database import Transaction, open_database, upgrade
from pipeline.store.tables import protocol_text
from tests.reading_room_cases import NOW, protocol

OVERDUE = 50  #: one in so many items has waited longer than it should

_DRAWN = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :cases),
mixed AS (SELECT n, n * 48271 % 2147483647 * 69621 % 2147483647 AS a, n * 16807 % 2147483647 * 39373 % 2147483647 AS b,
    n * 62089911 % 2147483647 * 40692 % 2147483647 AS c FROM numbers),
classed AS (SELECT n, {key} AS k, a, CASE WHEN b % 10 < 1 THEN 2 WHEN b % 10 < 7 THEN 1 ELSE 0 END AS priority,
    CASE WHEN c % 10 < 6 THEN 'neuroradiology' WHEN c % 10 < 9 THEN 'general_radiology' ELSE 'neuro_oncology' END
    AS specialty FROM mixed),
waits AS (SELECT *, CASE priority WHEN 2 THEN 3600 WHEN 1 THEN 14400 ELSE 86400 END AS wait FROM classed),
aged AS (SELECT *, :now - a % (wait + wait / :overdue) AS born FROM waits)
"""
_SEAL = '{"completeness":"PROVEN","kind":"gap_check","detail":"","instances":0,"series":0,"quarantined":0}'
_COLUMNS = {  # table -> column -> expression over a row of `aged`
    "study": {
        "id": "'a' || k",
        "study_instance_uid": "'1.2.826.0.1.' || n",
        "patient_pseudonym": "'p' || k",
        "state": "'SEALED'",
        "revision": "1",
        "identity_conflict": "false",
        "content_conflict": "false",
        "first_seen_at": "{born}",
        "last_seen_at": "{born}",
    },
    "identity": {
        "study_id": "'a' || k",
        "patient_id": "'MRN-' || n",
        "patient_name": "'Doe' || n || '^Jane'",
        "patient_birth_date": "'19700203'",
        "patient_sex": "'F'",
        "accession_number": "'ACC-' || n",
        "study_date": "'20260313'",
    },
    "study_revision": {
        "id": "'b' || k",
        "study_id": "'a' || k",
        "revision": "1",
        "manifest_digest": "'f' || k",
        "evidence": ":seal",
        "sealed_at": "{born}",
    },
    "triage_case": {
        "id": "'c' || k",
        "study_id": "'a' || k",
        "revision_id": "'b' || k",
        "protocol": ":protocol",
        "protocol_digest": ":digest",
        "state": "'DECIDED'",
        "attempts": "1",
        "not_before": "{born}",
        "fence": "1",
        "created_at": "{born}",
    },
    "decision": {
        "id": "'d' || k",
        "case_id": "'c' || k",
        "route": "'REVIEW'",
        "reasons": """'["UNCERTAIN"]'""",
        "guards": "'{{}}'",
        "evidence": "'{{}}'",
        "protocol_digest": ":digest",
        "manifest_digest": "'f' || k",
        "fingerprint": "'{{}}'",
        "audit": "false",
        "fence": "1",
        "decided_at": "{born}",
    },
    "worklist_item": {
        "id": "'e' || k",
        "case_id": "'c' || k",
        "state": "'SCHEDULED'",
        "specialty": "specialty",
        "priority": "priority",
        "reasons": """'["UNCERTAIN"]'""",
        "created_at": "{born}",
        "due_at": "{due}",
        "fence": "0",
    },
}
_SPOKEN = {
    "sqlite": {
        "key": "printf('%031x', n)",
        "born": "datetime(born, 'unixepoch') || '.000000'",
        "due": "datetime(born + wait, 'unixepoch') || '.000000'",
    },
    "postgresql": {
        "key": "lpad(to_hex(n), 31, '0')",
        "born": "to_timestamp(born)",
        "due": "to_timestamp(born + wait)",
    },
}
_HASTE = {
    "sqlite": ("PRAGMA cache_size = -1000000",),
    "postgresql": ("SET LOCAL statement_timeout = 0", "SET LOCAL session_replication_role = replica"),
}


def fill(url: str, cases: int, *, now: datetime = NOW) -> TriageProtocol:
    """Put that many open items into the migrated, empty store at `url`; returns the protocol they belong to."""
    rules = protocol()
    database = open_database(url)
    with database.transaction() as connection:
        content = {"digest": rules.digest, "name": rules.name, "content": rules.model_dump(mode="json")}
        connection.execute(insert(protocol_text).values(**content, first_used_at=now))
        for statement in _HASTE[database.url_kind]:
            connection.execute(text(statement))
        given = {"cases": cases, "now": int(now.timestamp()), "overdue": OVERDUE, "seal": _SEAL}
        given |= {"protocol": rules.name, "digest": rules.digest}
        for table in _COLUMNS:
            _fill_table(connection, table, database.url_kind, given)
    database.close()
    return rules


def _fill_table(connection: Transaction, table: str, kind: str, given: dict[str, object]) -> None:
    columns = _COLUMNS[table]
    values = ", ".join(columns.values())
    order = f"INSERT INTO {table} ({', '.join(columns)}) {_DRAWN} SELECT {values} FROM aged".format(**_SPOKEN[kind])
    if kind == "postgresql":
        order = order.replace(":cases", "CAST(:cases AS bigint)").replace(":seal", "CAST(:seal AS json)")
        order = order.replace("SELECT 1 UNION", "SELECT CAST(1 AS bigint) UNION")
    named = {name: value for name, value in given.items() if f":{name}" in order}
    connection.execute(text(order), named)


def case_id(number: int) -> str:
    """The id of a filled store's case, from 1."""
    return f"c{number:031x}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the store at a URL; an SQLite file is made where there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--now", action="store_true", help="due around this moment instead of the tests' own")
    asked = parser.parse_args(arguments)
    started = time.perf_counter()
    upgrade(asked.url)
    fill(asked.url, asked.cases, now=datetime.now(UTC) if asked.now else NOW)
    sys.stdout.write(f"{asked.cases} open items in {time.perf_counter() - started:.1f} s\n")


if __name__ == "__main__":
    main()
