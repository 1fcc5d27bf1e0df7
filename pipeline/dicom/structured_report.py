"""A result as DICOM SR: Comprehensive 3D SR, TID 1500 (PS3.16), in the study it speaks of (IHE AI Results).

UNVERIFIED and PRELIMINARY until a clinician has read the case; the verified successor names the reader and its
predecessors. What the model did not say is said to be absent, and why; silence never stands for a negative finding.
"""

from __future__ import annotations

from typing import Final

from highdicom import sr
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.dicom.application_entity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from pipeline.dicom.result_objects import (
    MANUFACTURER,
    coded,
    contributing_equipment,
    declare_scheme,
    device_uid,
    finish,
    ours,
    settle_times,
    source_datasets,
)
from pipeline.domain.reason_words import ROUTE_WORDS, in_words
from pipeline.domain.result import Absent, Findings, Numbers, Result, ResultKind

SERIES_NUMBER: Final = 990
SERIES_DESCRIPTION: Final = "secondread triage, not for diagnosis"
_SUMMARY: Final = CodedConcept("111017", "DCM", "CAD Processing and Findings Summary")
_CERTAINTY: Final = CodedConcept("111012", "DCM", "Certainty of Finding")
_RENDERING: Final = CodedConcept("111056", "DCM", "Rendering Intent")
_IMAGING: Final = CodedConcept("363679005", "SCT", "Imaging")
_NATS: Final = CodedConcept("{nat}", "UCUM", "nat")
_NO_UNIT: Final = CodedConcept("1", "UCUM", "no units")

#: CID 6047; a case that a clinician decides has no code there: every one of them says "with" or "without findings".
_FINDINGS: Final = {
    Findings.WITH: CodedConcept("111242", "DCM", "All algorithms succeeded; with findings"),
    Findings.WITHOUT: CodedConcept("111241", "DCM", "All algorithms succeeded; without findings"),
    Findings.NONE: CodedConcept("111245", "DCM", "No algorithms succeeded; without findings"),
    Findings.PARTIAL: ours("DEFERRED", "Deferred to a clinician; nothing is said about findings"),
    Findings.WITHHELD: ours("WITHHELD", "Withheld until a clinician has read the case"),
}
_ABSENT: Final = {
    Absent.WITHHELD: "Withheld until a clinician has read the case",
    Absent.NOT_PERFORMED: "Not performed",
    Absent.NOT_A_NUMBER: "Not a number",
}


def structured_report(result: Result) -> Dataset:
    """The SR of a result, the same bytes whenever it is made again. Raises ValueError without a source image."""
    if not result.sources:
        raise ValueError("a report needs at least one image that it speaks of")
    verified = result.read is not None
    report = sr.Comprehensive3DSR(
        evidence=source_datasets(result),
        content=_content(result),
        series_instance_uid=result.uid("sr series"),
        series_number=SERIES_NUMBER + (result.kind is ResultKind.READ),
        sop_instance_uid=result.uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=verified,
        is_verified=verified,
        verifying_observer_name=_person_name(result.read.reader) if result.read else None,
        verifying_organization=MANUFACTURER if verified else None,
        previous_versions=_predecessors(result) or None,
        contributing_equipment=[contributing_equipment(result)],
        series_description=SERIES_DESCRIPTION,
    )
    finish(report, result)
    declare_scheme(report)
    settle_times(report, result)
    if verified:
        report.VerifyingObserverSequence[0].VerificationDateTime = f"{result.told_at:%Y%m%d%H%M%S.%f}+0000"
    _add_file_meta(report)
    return report


def _add_file_meta(report: Dataset) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    report.file_meta = meta


def _person_name(reader: str) -> str:
    return f"{reader[:60]}^"


def _predecessors(result: Result) -> list[Dataset]:
    """References to our earlier reports of the same study, which this one replaces."""
    found = []
    template = source_datasets(result)[0]
    for sop_instance_uid, series_instance_uid in result.predecessors:
        earlier = Dataset()
        earlier.update(template)
        earlier.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
        earlier.SOPInstanceUID, earlier.SeriesInstanceUID = sop_instance_uid, series_instance_uid
        found.append(earlier)
    return found


def _content(result: Result) -> Dataset:
    report = sr.MeasurementReport(
        observation_context=_observers(result),
        procedure_reported=_IMAGING,
        imaging_measurements=[_group(result)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    content: Dataset = report[0]
    return content


def _observers(result: Result) -> sr.ObservationContext:
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(result.algorithm),
            name="secondread",
            manufacturer_name=MANUFACTURER,
            model_name=result.algorithm.protocol,
        ),
    )
    if result.read is None:
        return sr.ObservationContext(observer_device_context=device)
    person = sr.ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(name=_person_name(result.read.reader)),
    )
    return sr.ObservationContext(observer_person_context=person, observer_device_context=device)


def _group(result: Result) -> sr.MeasurementsAndQualitativeEvaluations:
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=result.uid("tracking"), identifier=f"{result.algorithm.protocol} {result.case_id}"
        ),
        finding_type=coded(result.finding) if result.asserted else None,
        algorithm_id=_algorithm(result),
        measurements=None if result.numbers is None else _measurements(result.numbers),
        qualitative_evaluations=_evaluations(result),
    )


def _algorithm(result: Result) -> sr.AlgorithmIdentification:
    algorithm, numbers = result.algorithm, result.numbers
    parameters = [f"protocol={algorithm.protocol_digest[:16]}", f"question={result.question}"[:120]]
    if numbers is not None:
        parameters.append(f"members={numbers.members};T={numbers.passes}")
    return sr.AlgorithmIdentification(
        name=f"secondread {algorithm.protocol}",
        version=algorithm.release_digest or "no release",
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
        parameters=parameters,
    )


def _measurements(numbers: Numbers) -> list[sr.Measurement]:
    probability = sr.Measurement(
        name=CodedConcept("122157", "DCM", "Probability"), value=numbers.probability, unit=_NO_UNIT
    )
    entropies = (
        ("PRED_ENTROPY", "Predictive entropy", numbers.predictive_entropy),
        ("EXP_ENTROPY", "Expected entropy", numbers.expected_entropy),
        ("MUTUAL_INFO", "Mutual information of class and weights", numbers.mutual_information),
    )
    novelty = sr.Measurement(
        name=ours("NOVELTY_P", "P-value of novelty against held-out images"), value=numbers.novelty_p, unit=_NO_UNIT
    )
    return [
        probability,
        *(sr.Measurement(name=ours(code, name), value=value, unit=_NATS) for code, name, value in entropies),
        novelty,
    ]


def _evaluations(result: Result) -> list[sr.QualitativeEvaluation]:
    route = ours(f"ROUTE_{result.route}", ROUTE_WORDS[result.route])
    found = [
        sr.QualitativeEvaluation(name=ours("ASKED", "Finding asked for"), value=coded(result.finding)),
        sr.QualitativeEvaluation(name=_SUMMARY, value=_FINDINGS[result.findings]),
        sr.QualitativeEvaluation(name=ours("ROUTE", "Route of the study"), value=route),
        *(
            sr.QualitativeEvaluation(name=ours("REASON", "Reason of the route"), value=ours(reason, in_words(reason)))
            for reason in result.reasons
        ),
    ]
    if result.absent is not None:
        absent = ours(result.absent.value.upper().replace("-", "_"), _ABSENT[result.absent])
        found.append(sr.QualitativeEvaluation(name=ours("NO_NUMBERS", "Why there are no numbers"), value=absent))
        intent = CodedConcept("111152", "DCM", "Not for Presentation: Rendering device expected not to present")
        found.append(sr.QualitativeEvaluation(name=_RENDERING, value=intent))
    return found + _read_evaluations(result)


def _read_evaluations(result: Result) -> list[sr.QualitativeEvaluation]:
    """The reader's finding and certainty, in our words: the protocol's classes are not all coded elsewhere."""
    if result.read is None:
        return []
    finding = ours(f"READ_{result.read.finding}".upper()[:64], f"Read as: {result.read.finding.replace('_', ' ')}")
    certainty = ours(f"CERTAINTY_{result.read.certainty}", f"Certainty {result.read.certainty} of 5")
    return [
        sr.QualitativeEvaluation(name=ours("READ_FINDING", "Finding of the reader"), value=finding),
        sr.QualitativeEvaluation(name=_CERTAINTY, value=certainty),
    ]
