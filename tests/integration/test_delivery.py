from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydicom import Dataset

from pipeline import claiming, review
from pipeline.delivery import Destination, Post, deliver
from pipeline.dicom.result_sending import as_bytes, send_to_pacs
from pipeline.dicom.secondary_capture import secondary_capture
from pipeline.dicom.structured_report import structured_report
from pipeline.domain.result import ResultForm
from pipeline.errors import RetryLater
from pipeline.review import Read
from pipeline.store import account_rows, conservation
from pipeline.store.database import Database
from pipeline.store.door_tables import delivery
from pipeline.store.tables import audit_event, case, decision, outbox
from tests.integration.test_triage import Room
from tests.pretend_scanner import MINUTE, NOON, PretendedRelease, claim, seal_all, slice_bytes, tiny_protocol
from tests.reading_room_cases import add_account
from tests.results import a_read_result, a_result

PROTOCOL = tiny_protocol()
LATER = NOON + 20 * MINUTE


class FakePacs:
    """A receiver that keeps objects by UID, as a PACS does, and may be broken."""

    def __init__(self) -> None:
        self.objects: dict[str, Dataset] = {}
        self.stored = 0
        self.away = False
        self.forgetful = False

    def store(self, dataset: Dataset) -> str:
        if self.away:
            raise RetryLater("the PACS does not answer")
        self.stored += 1
        if not self.forgetful:
            self.objects[str(dataset.SOPInstanceUID)] = dataset
        return "0000"

    def holds(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
        if self.away:
            raise RetryLater("the PACS does not answer")
        found = self.objects.get(sop_instance_uid)
        return found is not None and (found.StudyInstanceUID, found.SeriesInstanceUID) == (study_uid, series_uid)

    def reports(self) -> list[Dataset]:
        return [found for found in self.objects.values() if found.Modality == "SR"]


class Counter(Room):
    """A room whose results go to a fake PACS."""

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(database, folder)
        self.pacs = FakePacs()
        self.moment = LATER
        self.forms: tuple[str, ...] = ("sr",)
        self.withhold = True

    def deliver(self, moment: datetime | None = None) -> Any:
        self.moment = moment or self.moment + MINUTE
        destination = Destination(
            name="pacs",
            forms=self.forms,
            send=lambda _form, content: send_to_pacs(self.pacs, content),  # type: ignore[arg-type]
        )
        post = Post(
            destinations=[destination],
            makers={
                ResultForm.SR: lambda result: as_bytes(structured_report, result),
                ResultForm.SC: lambda result: as_bytes(secondary_capture, result),
            },
            version="0.1.0",
            withhold=self.withhold,
        )
        return deliver(self.database, self.blobs, post, now=lambda: self.moment, random=Random(1))

    def read(self, finding: str = "tumour") -> None:
        (of,) = [row for row in self.rows(case) if row.state == "DECIDED"]
        add_account(self.database, "iris")
        with self.database.read() as connection:
            stored = account_rows.find_for_sign_in(connection, "iris")
        assert stored is not None
        reader = stored.account
        claim = claiming.claim_case(self.database, reader, of.id, lease=MINUTE, now=self.moment)
        read = Read(finding=finding, certainty=4)
        review.commit_read(self.database, reader, of.id, claim.fence, read, now=self.moment + MINUTE / 2)
        self.moment += MINUTE


@pytest.fixture
def post(database: Database, tmp_path: Path) -> Counter:
    return Counter(database, tmp_path)


def three_slices(study: str = "1.1") -> list[bytes]:
    return [slice_bytes(study, number) for number in (1, 2, 3)]


def words(report: Dataset) -> str:
    return as_bytes(lambda _: report, a_result()).decode("utf-8", "replace")


def test_a_result_is_told_once_and_proven_by_looking_for_it(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    assert post.deliver().proven == 1
    (report,) = post.pacs.reports()
    assert report.StudyInstanceUID == "1.1"
    (row,) = post.rows(delivery)
    assert (row.state, row.proof) == ("PROVEN", {"status": "0000", "read_back": "found by query"})
    assert post.rows(outbox)[0].delivered_at is not None
    assert post.deliver().planned == 0
    assert post.pacs.stored == 1


def test_a_receiver_that_confirms_and_does_not_keep_is_no_proof(post: Counter) -> None:
    post.pacs.forgetful = True
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    assert (post.deliver().proven, post.deliver().proven) == (0, 0)
    (row,) = post.rows(delivery)
    assert row.state == "WAITING"
    assert "does not find" in row.problem


def test_what_the_receiver_has_already_is_not_sent_again(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    post.deliver()
    with post.database.transaction() as connection:  # the proof was lost: the sender died before it wrote it down
        connection.execute(delivery.update().values(state="WAITING", proof=None, proven_at=None, not_before=NOON))
        connection.execute(outbox.update().values(delivered_at=None))
    assert post.deliver().proven == 1
    assert (post.pacs.stored, len(post.pacs.objects)) == (1, 1)


def test_the_same_result_is_the_same_bytes_whenever_it_is_made() -> None:
    for make in (a_result, a_read_result):
        assert as_bytes(structured_report, make()) == as_bytes(structured_report, make())
        assert as_bytes(secondary_capture, make()) == as_bytes(secondary_capture, make())


def test_a_pacs_that_is_away_for_three_days_gets_nothing_lost(post: Counter) -> None:
    post.pacs.away = True
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    post.deliver()
    attempts = 0
    while post.rows(delivery)[0].state == "WAITING":
        post.deliver(post.rows(delivery)[0].not_before)
        attempts += 1
        assert attempts < 1000
    assert post.rows(delivery)[0].state == "PARKED"
    assert post.moment - LATER >= timedelta(hours=72)
    assert "delivery_parked" in {row.event for row in post.rows(audit_event)}
    assert post.rows(outbox)[0].delivered_at is None, "it is still to be told"
    post.pacs.away = False
    from pipeline.store import outbox_rows

    with post.database.transaction() as connection:
        outbox_rows.send_parked_again(connection, post.moment)
    assert post.deliver().proven == 1


@pytest.mark.parametrize("score", [0.5, 0.97])
def test_while_a_clinician_reads_the_case_its_result_tells_no_number(post: Counter, score: float) -> None:
    post.forms = ("sr",)
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=score))
    post.deliver()
    (report,) = post.pacs.reports()
    text = words(report)
    for number in (str(score), "0.15", "0.05", "PRED_ENTROPY", "Probability", "CONFIDENT", "121071"):
        assert number not in text, number
    assert "WITHHELD" in text
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_after_the_read_the_verified_successor_tells_them_and_names_what_it_replaces(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    post.deliver()
    (first,) = post.pacs.reports()
    post.read("tumour")
    assert post.deliver().proven == 1
    second = post.pacs.reports()[1]
    assert (second.VerificationFlag, second.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert second.VerifyingObserverSequence[0].VerifyingObserverName == "iris^"
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assert "0.97" in words(second)
    assert "READ_TUMOUR" in words(second)


def test_a_read_before_the_first_sending_makes_the_first_result_needless(post: Counter) -> None:
    post.pacs.away = False
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.5))
    post.read("no_tumour")
    done = post.deliver()
    assert (done.proven, done.overtaken) == (1, 1)
    assert [report.VerificationFlag for report in post.pacs.reports()] == ["VERIFIED"]


def test_a_routine_case_tells_its_numbers_unless_it_is_audited(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.03125))
    post.deliver()
    (report,) = post.pacs.reports()
    assert "0.03125" in words(report)
    assert "ROUTE_ROUTINE" in words(report)
    assert "111241" in words(report)


def test_an_audited_case_looks_like_every_deferred_one_until_it_is_read(post: Counter) -> None:
    audited = tiny_protocol(audit_share=1 - 1e-9)
    post.take(*three_slices("1.1"), *three_slices("1.2"))
    seal_all(post.database, audited)
    for claimed, score in zip(claim(post.database, audited), (0.03125, 0.5), strict=True):
        post.decide_claimed(claimed, PretendedRelease(audited, score=score), protocol=audited)
    assert sorted(row.route for row in post.rows(decision)) == ["REVIEW", "ROUTINE"]
    post.deliver()
    audit, deferred = (
        _without_names(report) for report in sorted(post.pacs.reports(), key=lambda r: r.StudyInstanceUID)
    )
    assert audit == deferred


def _without_names(report: Dataset) -> str:
    del report.file_meta  # its length depends on that of a UID
    return re.sub(r"2\.25\.\d+|\b1\.[12]\.9(\.\d+)?\b|\b1\.[12]\b|[0-9a-f]{32}", "X", str(report))


def test_late_images_supersede_the_result_and_tell_the_open_read(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.03125))
    post.deliver()
    post.take(slice_bytes(number=4))
    post.decide(PretendedRelease(PROTOCOL, score=0.03125))
    post.deliver()
    first, second = post.pacs.reports()
    assert "LATE_DATA" in words(second)
    assert "ROUTE_REVIEW" in words(second)
    (study,) = second.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_a_superseded_result_that_was_never_sent_is_not_sent(post: Counter) -> None:
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.03125))
    post.take(slice_bytes(number=4))
    post.decide(PretendedRelease(PROTOCOL, score=0.03125))
    post.deliver()
    (only,) = post.pacs.reports()
    assert "ROUTE_REVIEW" in words(only)
    assert sorted(row.state for row in post.rows(delivery)) == ["OVERTAKEN", "PROVEN"]


def test_our_own_results_coming_back_are_no_new_images(post: Counter) -> None:
    post.forms = ("sr", "sc")
    post.take(*three_slices())
    post.decide(PretendedRelease(PROTOCOL, score=0.97))
    assert post.deliver().proven == 2
    page = next(found for found in post.pacs.objects.values() if found.Modality == "OT")
    receipt_before = len(post.rows(case))
    post.take(slice_bytes(number=9, sop_instance_uid=str(page.SOPInstanceUID)))
    with post.database.read() as connection:
        status = conservation.status(connection, NOON)
    assert (status["studies"]["open"], len(post.rows(case))) == (0, receipt_before)
    assert status["instances"]["quarantined"] == 1


def test_two_senders_at_once_do_not_send_one_result_twice(post: Counter) -> None:
    from threading import Barrier, Thread

    post.take(*[data for study in range(8) for data in three_slices(f"1.{study + 1}")])
    seal_all(post.database, PROTOCOL)
    for claimed in claim(post.database, PROTOCOL):
        post.decide_claimed(claimed, PretendedRelease(PROTOCOL, score=0.97))
    barrier = Barrier(2)

    def run() -> None:
        barrier.wait()
        post.deliver(LATER + 5 * MINUTE)

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    post.deliver(LATER + 60 * MINUTE)
    assert post.pacs.stored == len(post.pacs.objects) == 8
    assert {row.state for row in post.rows(delivery)} == {"PROVEN"}
