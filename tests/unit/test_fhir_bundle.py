from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dicom.result_objects import device_uid
from pipeline.domain.case import Reason, Route
from pipeline.domain.reason_words import ROUTE_WORDS
from pipeline.domain.result import Absent, Concept, Findings, HumanRead, Numbers, Person, Result, ResultKind
from pipeline.fhir.bundle import bundle_bytes, result_bundle
from tests.results import NUMBERS, READ, a_read_result, a_result

CONCEPTS = "urn:secondread:concepts"
DICOM = "http://dicom.nema.org/resources/ontology/DCM"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
#: The whole of what a bundle may say in each code system, but for the protocol's own finding and specialties.
CODES = {
    DICOM: {"126000", "122157", "111017", "111241", "111242", "111245", "111012", "110005"},
    ABSENT: {"masked", "not-performed", "not-a-number", "unknown"},
    CONCEPTS: {
        *("PRED_ENTROPY", "EXP_ENTROPY", "MUTUAL_INFO", "NOVELTY_P", "PASSES", "MEMBERS", "ASKED", "ROUTE", "REASON"),
        *("DEFERRED", "READ_FINDING", "SCHEDULED", "COMPLETED", "ALGORITHM", "RELEASE", "SOFTWARE", "PROTOCOL_DIGEST"),
        *(f"ROUTE_{route}" for route in Route),
        *Reason,
    },
    "http://terminology.hl7.org/CodeSystem/observation-category": {"imaging"},
    "http://terminology.hl7.org/CodeSystem/provenance-participant-type": {"performer", "author"},
    "http://terminology.hl7.org/CodeSystem/v2-0074": {"RAD"},
    "http://terminology.hl7.org/CodeSystem/v2-0203": {"MR", "ACSN"},
}
STATUSES = {
    "DiagnosticReport": {"preliminary", "final"},
    "Observation": {"preliminary", "final"},
    "Task": {"requested", "completed"},
}
UNITS = {"1", "{nat}", "{pass}", "{member}"}
NUMBER_CODES = {"122157", "PRED_ENTROPY", "EXP_ENTROPY", "MUTUAL_INFO", "NOVELTY_P", "PASSES", "MEMBERS"}
FORBIDDEN_WORDS = re.compile(r"\b(normal|abnormal|negative|positive|cleared|healthy)\b", re.IGNORECASE)
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?\+00:00")
CANARIES = Numbers(
    probability=0.61737,
    predictive_entropy=0.41414,
    expected_entropy=0.31313,
    mutual_information=0.07171,
    novelty_p=0.57575,
    passes=7919,
    members=6007,
)
NOTHING = Person()
LATER = (("2.25.77", "2.25.78"),)
KINDS = {
    "triage": a_result(),
    "deferred": a_result(route="REVIEW", reasons=("UNCERTAIN", "NOVEL"), findings=Findings.PARTIAL, asserted=False),
    "routine": a_result(
        route="ROUTINE",
        reasons=("CONFIDENT_ABSENCE",),
        findings=Findings.WITHOUT,
        asserted=False,
        specialty=None,
        due_at=None,
    ),
    "withheld": a_result(
        route="REVIEW",
        reasons=("UNCERTAIN",),
        findings=Findings.WITHHELD,
        asserted=False,
        numbers=None,
        absent=Absent.WITHHELD,
    ),
    "not performed": a_result(
        route="REVIEW",
        reasons=("NOT_ANALYSED",),
        findings=Findings.NONE,
        asserted=False,
        numbers=None,
        absent=Absent.NOT_PERFORMED,
    ),
    "not a number": a_result(
        route="REVIEW",
        reasons=("UNCERTAINTY_INVALID",),
        findings=Findings.PARTIAL,
        asserted=False,
        numbers=None,
        absent=Absent.NOT_A_NUMBER,
    ),
    "out of scope": a_result(
        route="OUT_OF_SCOPE",
        reasons=("WRONG_BODY_PART",),
        findings=Findings.NONE,
        asserted=False,
        numbers=None,
        absent=Absent.NOT_PERFORMED,
        specialty=None,
        due_at=None,
    ),
    "read": a_read_result(),
    "read, unlike the model": a_read_result(asserted=False, read=replace(READ, finding="no_tumour")),
    "later revision": a_result(revision=2, decision_id="e" * 32, predecessors=LATER),
    "nobody": a_result(person=NOTHING),
}


def resources(result: Result, kind: str | None = None) -> list[dict[str, Any]]:
    found = [entry["resource"] for entry in result_bundle(result)["entry"]]
    return [one for one in found if kind in {None, one["resourceType"]}]


def only(result: Result, kind: str) -> dict[str, Any]:
    (found,) = resources(result, kind)
    return found


def observed(result: Result, code: str) -> dict[str, Any]:
    (found,) = [one for one in resources(result, "Observation") if one["code"]["coding"][0]["code"] == code]
    return found


def value_code(observation: dict[str, Any]) -> str:
    return str(observation["valueCodeableConcept"]["coding"][0]["code"])


def why_absent(observation: dict[str, Any]) -> str | None:
    found: str | None = observation.get("dataAbsentReason", {}).get("coding", [{}])[0].get("code")
    return found


def walk(tree: Any) -> Any:
    yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from walk(part)


def members(tree: Any, name: str) -> list[Any]:
    return [one[name] for one in walk(tree) if isinstance(one, dict) and name in one]


TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["", " ", "a\x00b", "\ud800", "Müller\n"])
MOMENTS = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2030, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
CODES_OF_CLASSES = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -0.0, 5e-324])
SOME_NUMBERS = st.builds(
    Numbers,
    **dict.fromkeys(
        ("probability", "predictive_entropy", "expected_entropy", "mutual_information", "novelty_p"), FLOATS
    ),
    passes=st.integers(0, 999),
    members=st.integers(0, 99),
)
READS = st.builds(
    HumanRead,
    reader=TEXT,
    finding=CODES_OF_CLASSES,
    certainty=st.integers(1, 5),
    comment=TEXT,
    committed_at=MOMENTS,
)
RESULTS = st.builds(
    a_result,
    outbox_id=st.uuids().map(str),
    decision_id=st.uuids().map(str),
    kind=st.sampled_from(ResultKind),
    person=st.builds(Person, **{field.name: st.none() | TEXT for field in fields(Person)}),
    sources=st.sampled_from([(), a_result().sources]),
    question=TEXT,
    finding=st.builds(Concept, scheme=TEXT, value=TEXT, meaning=TEXT),
    route=st.sampled_from(Route).map(str),
    reasons=st.lists(st.sampled_from(Reason).map(str), max_size=3).map(tuple),
    findings=st.sampled_from(Findings),
    asserted=st.booleans(),
    numbers=st.none() | SOME_NUMBERS,
    absent=st.none() | st.sampled_from(Absent),
    specialty=st.none() | CODES_OF_CLASSES,
    due_at=st.none() | MOMENTS,
    decided_at=MOMENTS,
    told_at=MOMENTS,
    read=st.none() | READS,
    predecessors=st.sampled_from([(), LATER]),
)


def check(result: Result) -> None:
    """What holds for every bundle, whatever it tells."""
    content = bundle_bytes(result)
    bundle = json.loads(content)
    Bundle.model_validate(bundle)
    assert content == bundle_bytes(replace(result))
    found = [entry["resource"] for entry in bundle["entry"]]
    placed = [f"{one['resourceType']}/{one['id']}" for one in found]
    assert [entry["request"] for entry in bundle["entry"]] == [{"method": "PUT", "url": place} for place in placed]
    assert len(set(placed)) == len(placed)
    assert set(members(bundle, "reference")) <= set(placed)
    assert all(re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", one["id"]) for one in [bundle, *found])
    assert not [one for one in walk(bundle) if one in ("", [], {}) or one is None]
    check_values(found, verified=result.read is not None)
    check_codes(bundle, result)
    check_moments(bundle)


def check_values(found: list[dict[str, Any]], *, verified: bool) -> None:
    kinds = Counter(one["resourceType"] for one in found)
    assert set(kinds) <= {"Device", "DiagnosticReport", "Observation", "Task", "Provenance"}
    assert (kinds["Device"], kinds["DiagnosticReport"], kinds["Provenance"]) == (1, 1, 1)
    for one in found:
        if one["resourceType"] == "Observation":
            said = [name for name in one if name.startswith("value")] + [n for n in one if n == "dataAbsentReason"]
            assert len(said) == 1, one["code"]
        if one["resourceType"] in STATUSES:
            assert one["status"] in STATUSES[one["resourceType"]]
            assert (one["status"] in {"final", "completed"}) == verified
    codes = {one["code"]["coding"][0]["code"] for one in found if one["resourceType"] == "Observation"}
    assert codes == NUMBER_CODES | {"ROUTE", "111017"} | ({"READ_FINDING"} if verified else set())


def check_codes(bundle: dict[str, Any], result: Result) -> None:
    read = {"READ_" + result.read.finding.upper()} if result.read else set()
    for coding in (one for codings in members(bundle, "coding") for one in codings):
        known = CODES.get(coding["system"])
        if coding["system"] == "urn:secondread:specialties":
            assert coding["code"] == result.specialty
        elif known is not None and coding.get("code") != result.finding.value:
            assert coding["code"] in known | (read if coding["system"] == CONCEPTS else set()), coding
    for quantity in members(bundle, "valueQuantity"):
        assert math.isfinite(quantity["value"])
        assert (quantity["system"], quantity["code"] in UNITS) == ("http://unitsofmeasure.org", True)
    assert set(members(bundle, "priority")) <= {"routine", "urgent", "asap", "stat"}
    assert set(members(bundle, "role")) <= {"source", "revision"}
    assert set(members(bundle, "intent")) <= {"order"}


def check_moments(bundle: dict[str, Any]) -> None:
    names = ("timestamp", "issued", "effectiveDateTime", "occurredDateTime", "recorded", "authoredOn", "lastModified")
    told = [one for name in (*names, "end", "time") for one in members(bundle, name)]
    assert len(told) > 5
    assert all(MOMENT.fullmatch(one) for one in told), told


@pytest.mark.parametrize("result", KINDS.values(), ids=KINDS)
def test_every_kind_of_result_is_a_sound_transaction(result: Result) -> None:
    check(result)


@settings(max_examples=120, deadline=None)
@given(RESULTS)
def test_whatever_a_result_says_its_bundle_is_a_sound_transaction(result: Result) -> None:
    check(result)


def test_the_bytes_are_canonical() -> None:
    content = bundle_bytes(a_result())
    tree = json.loads(content)
    again = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert content == f"{again}\n".encode()


def test_a_moment_in_another_zone_is_the_same_moment() -> None:
    east = timezone(timedelta(hours=9))
    moved = a_result(decided_at=a_result().decided_at.astimezone(east), told_at=a_result().told_at.astimezone(east))
    assert bundle_bytes(moved) == bundle_bytes(a_result())


def test_a_moment_without_a_zone_is_not_told() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        bundle_bytes(a_result(decided_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - the point


def test_all_numbers_of_an_open_result_are_told_with_their_units() -> None:
    told = {
        one["code"]["coding"][0]["code"]: (one["valueQuantity"]["value"], one["valueQuantity"]["code"])
        for one in resources(a_result(), "Observation")
        if "valueQuantity" in one
    }
    assert told == {
        "122157": (NUMBERS.probability, "1"),
        "PRED_ENTROPY": (NUMBERS.predictive_entropy, "{nat}"),
        "EXP_ENTROPY": (NUMBERS.expected_entropy, "{nat}"),
        "MUTUAL_INFO": (NUMBERS.mutual_information, "{nat}"),
        "NOVELTY_P": (NUMBERS.novelty_p, "1"),
        "PASSES": (20, "{pass}"),
        "MEMBERS": (4, "{member}"),
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"numbers": None, "absent": Absent.WITHHELD}, "masked"),
        ({"numbers": NUMBERS, "findings": Findings.WITHHELD}, "masked"),
        ({"numbers": NUMBERS, "absent": Absent.WITHHELD}, "masked"),
        ({"numbers": NUMBERS, "absent": Absent.NOT_PERFORMED}, "not-performed"),
        ({"numbers": None, "absent": Absent.NOT_PERFORMED}, "not-performed"),
        ({"numbers": None, "absent": Absent.NOT_A_NUMBER}, "not-a-number"),
        ({"numbers": None, "absent": None}, "unknown"),
    ],
)
def test_every_absent_number_says_why_and_stands_beside_none(changes: dict[str, Any], expected: str) -> None:
    result = a_result(**changes)
    assert {why_absent(observed(result, code)) for code in NUMBER_CODES} == {expected}
    assert members(result_bundle(result), "valueQuantity") == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_none_does_not_hide_the_others(bad: float) -> None:
    result = a_result(numbers=replace(NUMBERS, mutual_information=bad))
    assert why_absent(observed(result, "MUTUAL_INFO")) == "not-a-number"
    assert observed(result, "PRED_ENTROPY")["valueQuantity"]["value"] == NUMBERS.predictive_entropy


def hints(numbers: Numbers) -> set[str]:
    """How a number could be spelt: whole, rounded, as per cent."""
    spelt = set()
    for value in (getattr(numbers, field.name) for field in fields(Numbers)):
        spelt |= {str(value), f"{value:.3f}", f"{value:.2f}", f"{100 * value:.1f}", f"{100 * value:.2f}"}
    return spelt


def words_of(result: Result) -> list[str]:
    """Every number that stands alone in a bundle, in texts too."""
    return re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", bundle_bytes(result).decode())


@pytest.mark.parametrize("findings", [Findings.WITHHELD, Findings.WITH])
def test_a_withheld_bundle_shows_no_number_even_where_it_was_given_them(findings: Findings) -> None:
    result = a_result(route="REVIEW", numbers=CANARIES, absent=Absent.WITHHELD, findings=findings)
    assert not hints(CANARIES) & set(words_of(result))
    assert not re.search(
        r"61737|41414|31313|07171|57575|7919|6007", re.sub(r"2\.25\.\d+", "", str(result_bundle(result)))
    )


def test_the_search_for_numbers_has_teeth() -> None:
    assert {"0.61737", "0.07171", "7919"} <= hints(CANARIES) & set(words_of(a_result(numbers=CANARIES)))


@settings(max_examples=60, deadline=None)
@given(
    RESULTS.map(lambda result: replace(result, read=None)),
    st.none() | SOME_NUMBERS,
    st.sampled_from(Findings),
    st.booleans(),
)
def test_a_withheld_bundle_is_the_same_bytes_whatever_the_model_said(
    result: Result, numbers: Numbers | None, findings: Findings, asserted: bool
) -> None:
    told = replace(result, absent=Absent.WITHHELD)
    other = replace(told, numbers=numbers, findings=findings, asserted=asserted)
    assert bundle_bytes(told) == bundle_bytes(other)


def test_a_blind_reader_is_told_neither_routine_nor_a_confident_answer() -> None:
    result = a_result(route="ROUTINE", reasons=("CONFIDENT_ABSENCE", "INCOMPLETE"), absent=Absent.WITHHELD)
    text = bundle_bytes(result).decode()
    assert not re.search(r"ROUTINE|Routine|CONFIDENT|No priority flag|without findings", text)
    assert why_absent(observed(result, "ROUTE")) == "masked"
    assert only(result, "Task")["priority"] == only(replace(result, route="REVIEW"), "Task")["priority"]
    assert [one["valueCodeableConcept"]["coding"][0]["code"] for one in only(result, "Task")["input"]] == ["INCOMPLETE"]
    hidden = bundle_bytes(a_result(absent=Absent.WITHHELD)).decode()
    assert "CONFIDENT" not in hidden


@pytest.mark.parametrize(
    ("findings", "code", "absent"),
    [
        (Findings.WITH, "111242", None),
        (Findings.WITHOUT, "111241", None),
        (Findings.NONE, "111245", None),
        (Findings.PARTIAL, "DEFERRED", None),
        (Findings.WITHHELD, None, "masked"),
    ],
)
def test_how_the_analysis_went_is_told_and_silence_never_stands_for_it(
    findings: Findings, code: str | None, absent: str | None
) -> None:
    processing = observed(a_result(findings=findings), "111017")
    assert why_absent(processing) == absent
    assert code is None or value_code(processing) == code


@pytest.mark.parametrize("route", list(Route))
def test_a_route_is_told_in_the_words_of_the_report(route: Route) -> None:
    value = observed(a_result(route=str(route)), "ROUTE")["valueCodeableConcept"]
    assert (value["coding"][0]["code"], value["text"]) == (f"ROUTE_{route}", ROUTE_WORDS[route])


@pytest.mark.parametrize("result", KINDS.values(), ids=KINDS)
def test_no_bundle_says_a_study_is_normal_negative_or_cleared(result: Result) -> None:
    assert not FORBIDDEN_WORDS.search(bundle_bytes(result).decode())
    every = replace(result, reasons=tuple(map(str, Reason)))
    assert not FORBIDDEN_WORDS.search(bundle_bytes(every).decode())


def test_triage_is_preliminary_and_a_read_is_final_in_every_revision() -> None:
    assert only(KINDS["triage"], "DiagnosticReport")["status"] == "preliminary"
    assert only(KINDS["later revision"], "DiagnosticReport")["status"] == "preliminary"
    assert only(KINDS["read"], "DiagnosticReport")["status"] == "final"
    assert only(KINDS["triage"], "DiagnosticReport")["code"]["coding"][0]["code"] == "126000"


def test_the_read_replaces_the_triage_of_its_decision_and_of_no_other() -> None:
    def places(result: Result) -> set[str]:
        return {f"{one['resourceType']}/{one['id']}" for one in resources(result)}

    triage, read = places(a_result()), places(a_read_result())
    assert {place.partition("/")[0] for place in triage - read} == {"Provenance"}
    assert Counter(place.partition("/")[0] for place in read - triage) == {"Provenance": 1, "Observation": 1}
    other = places(a_result(decision_id="e" * 32, outbox_id="2" * 32))
    assert {place.partition("/")[0] for place in triage & other} == {"Device"}


def test_the_report_lists_every_observation_and_the_study() -> None:
    report = only(a_result(), "DiagnosticReport")
    found = [f"Observation/{one['id']}" for one in resources(a_result(), "Observation")]
    assert [one["reference"] for one in report["result"]] == found
    assert report["imagingStudy"] == [
        {"type": "ImagingStudy", "identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.4"}}
    ]


def test_only_a_clinician_says_as_a_code_that_the_finding_is_there() -> None:
    code = {"system": "http://snomed.info/sct", "code": "126952004", "display": "Neoplasm of brain"}
    assert "conclusionCode" not in only(a_result(), "DiagnosticReport")
    assert only(a_read_result(), "DiagnosticReport")["conclusionCode"][0]["coding"] == [code]
    assert code in observed(a_read_result(), "READ_FINDING")["valueCodeableConcept"]["coding"]
    unlike = KINDS["read, unlike the model"]
    assert "conclusionCode" not in only(unlike, "DiagnosticReport")
    assert code not in observed(unlike, "READ_FINDING")["valueCodeableConcept"]["coding"]
    assert "not for diagnosis" in only(a_result(), "DiagnosticReport")["conclusion"]


def test_the_read_is_the_readers_with_certainty_and_comment() -> None:
    read = observed(a_read_result(), "READ_FINDING")
    assert value_code(read) == "READ_TUMOUR"
    assert read["component"][0]["valueInteger"] == 4
    assert read["note"][0]["text"] == "left temporal"
    assert read["performer"][0]["identifier"] == {"system": "urn:secondread:readers", "value": "iris"}
    assert "device" not in read
    silent = a_read_result(read=replace(READ, comment="  "))
    assert "note" not in observed(silent, "READ_FINDING")


def test_the_queue_item_is_requested_and_then_completed() -> None:
    asked, done = only(a_result(), "Task"), only(a_read_result(), "Task")
    assert asked["id"] == done["id"]
    assert (asked["status"], asked["priority"], asked["businessStatus"]["text"]) == (
        "requested",
        "asap",
        "Waits for a reader",
    )
    assert asked["performerType"][0]["coding"][0]["code"] == "neuroradiology"
    assert asked["restriction"]["period"] == {"end": "2026-03-01T13:30:15.250000+00:00"}
    assert (done["status"], done["owner"]["display"]) == ("completed", "iris")
    found = observed(a_read_result(), "READ_FINDING")
    assert done["output"][0]["valueReference"] == {"reference": f"Observation/{found['id']}"}


@pytest.mark.parametrize(
    ("route", "priority"),
    [("PRIORITY", "asap"), ("REVIEW", "urgent"), ("ROUTINE", "routine"), ("OUT_OF_SCOPE", "routine")],
)
def test_the_priority_follows_the_route(route: str, priority: str) -> None:
    assert only(a_result(route=route), "Task")["priority"] == priority


def test_nobody_is_asked_where_no_specialty_is() -> None:
    assert resources(KINDS["routine"], "Task") == []


def test_the_patient_is_named_by_identifier_and_issuer_and_nothing_else() -> None:
    subject = only(a_result(), "DiagnosticReport")["subject"]
    assert (subject["identifier"]["value"], subject["identifier"]["assigner"]) == ("P1", {"display": "HOSPITAL"})
    text = bundle_bytes(a_result()).decode()
    assert not re.search(r"Müller|Jörg|19700102|1970-01-02|House|Gregory", text)
    assert resources(a_result(), "Patient") == []
    issued = replace(a_result().person, issuer_of_patient_id="1.2.276.0.76")
    subject = only(a_result(person=issued), "DiagnosticReport")["subject"]
    assert subject["identifier"]["system"] == "urn:oid:1.2.276.0.76"


def test_a_patient_without_identifier_is_said_to_be_unknown() -> None:
    report = only(KINDS["nobody"], "DiagnosticReport")
    assert report["subject"]["extension"][0]["valueCode"] == "unknown"
    assert "basedOn" not in report


def test_the_device_is_that_of_the_structured_report() -> None:
    algorithm = a_result().algorithm
    device = only(a_result(), "Device")
    assert device["id"] == device_uid(algorithm)
    assert [one["value"] for one in device["version"]] == ["b" * 64, "0.1.0"]
    none = only(a_result(algorithm=replace(algorithm, release_digest=None)), "Device")
    assert (none["version"][0]["value"], none["id"] != device["id"]) == ("no release", True)


def test_the_provenance_names_agents_images_predecessors_and_the_protocol() -> None:
    triage, read = only(a_result(), "Provenance"), only(a_read_result(), "Provenance")
    assert triage["policy"] == [f"urn:secondread:protocol:brain-tumour-mr:{'a' * 64}"]
    assert [one["type"]["coding"][0]["code"] for one in triage["agent"]] == ["performer"]
    assert [one["type"]["coding"][0]["code"] for one in read["agent"]] == ["performer", "author"]
    sources = [one["what"]["identifier"]["value"] for one in triage["entity"] if one["role"] == "source"]
    assert sources == [f"urn:oid:1.2.3.4.5.{number}" for number in range(1, 17)]
    earlier = [one["what"]["identifier"]["value"] for one in read["entity"] if one["role"] == "revision"]
    assert earlier == ["urn:oid:2.25.1"]
    told = {f"{one['resourceType']}/{one['id']}" for one in resources(a_result())}
    targets = {one["reference"] for one in triage["target"]}
    assert targets == {place for place in told if not place.startswith(("Device", "Provenance"))}


def test_text_from_outside_reaches_no_server_with_control_characters() -> None:
    rough = a_read_result(read=replace(READ, comment="one\x00two\x0bthree\ud800 \nfour"))
    assert observed(rough, "READ_FINDING")["note"][0]["text"] == "one two three \nfour".replace("three ", "three  ")
