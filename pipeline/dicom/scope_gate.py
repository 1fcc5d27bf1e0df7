"""Whether the protocol applies to the images: yes, no, or unknown because a tag that it asks for is missing.

Unknown is never out of scope: a case is turned away only on what its images say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.dicom.kleene import Truth, agreed, all_of
from pipeline.dicom.sop_classes import MODALITY_OF
from pipeline.domain.case import Reason
from pipeline.domain.evidence import ScopeVerdict
from pipeline.domain.study import InstanceHeader
from pipeline.protocol import Scope

_Asked = tuple[Reason, str, Callable[[InstanceHeader], Truth]]


def judge_scope(headers: Sequence[InstanceHeader], scope: Scope) -> ScopeVerdict:
    """Whether `scope` holds for every one of `headers`: best those of the series that would be read.

    In scope only when every image says so; out of scope when all agree on some tag that rules it out; unknown
    otherwise, also when images differ or there are none.
    """
    judged = [(reason, name, agreed(map(ask, headers))) for reason, name, ask in _questions(scope)]
    truth = all_of(truth for _, _, truth in judged)
    against = [(reason, name) for reason, name, found in judged if found is False]
    unknown = [name for _, name, found in judged if found is None]
    if truth is False:
        names = ", ".join(name for _, name in against)
        return ScopeVerdict(
            in_scope=False, reasons=tuple(reason for reason, _ in against), detail=f"not for this {names}"
        )
    if truth is None:
        detail = f"missing or contradictory: {', '.join(unknown)}"
        return ScopeVerdict(in_scope=None, reasons=(Reason.SCOPE_UNKNOWN,), detail=detail)
    return ScopeVerdict(in_scope=True, detail="modality, body part, age and device are those of the protocol")


def _questions(scope: Scope) -> list[_Asked]:
    asked: list[_Asked] = [(Reason.WRONG_MODALITY, "modality", lambda header: _modality(header, scope))]
    if scope.body_part:
        asked.append((Reason.WRONG_BODY_PART, "body part", lambda header: _body_part(header, scope)))
    if scope.age_years is not None:
        asked.append((Reason.WRONG_AGE, "age", lambda header: _age(header, scope)))
    if scope.devices:
        asked.append((Reason.WRONG_DEVICE, "device", lambda header: _device(header, scope)))
    return asked


def _modality(header: InstanceHeader, scope: Scope) -> Truth:
    """A Modality that contradicts the SOP class is unknown, like a missing one."""
    if header.modality is None:
        return None
    modality = header.modality.upper()
    if MODALITY_OF.get(header.sop_class_uid, modality) != modality:
        return None
    return modality in scope.modality


def _body_part(header: InstanceHeader, scope: Scope) -> Truth:
    return None if header.body_part_examined is None else _matches(header.body_part_examined, scope.body_part)


def _age(header: InstanceHeader, scope: Scope) -> Truth:
    if header.patient_age_years is None or scope.age_years is None:
        return None
    return scope.age_years.minimum <= header.patient_age_years <= scope.age_years.maximum


def _device(header: InstanceHeader, scope: Scope) -> Truth:
    truths = [
        all_of(
            [
                _matches(header.manufacturer, (device.manufacturer,)) if header.manufacturer else None,
                True if device.model is None else _model(header, device.model),
            ]
        )
        for device in scope.devices
    ]
    return True if True in truths else None if None in truths else False


def _model(header: InstanceHeader, wanted: str) -> Truth:
    return _matches(header.manufacturer_model_name, (wanted,)) if header.manufacturer_model_name else None


def _matches(found: str, wanted: Sequence[str]) -> Truth:
    """Equal in upper case is true; one text inside the other ("HEAD^BRAIN", "Siemens Healthineers") is unknown."""
    upper, terms = found.strip().upper(), [term.strip().upper() for term in wanted]
    if upper in terms:
        return True
    return None if any(term in upper or upper in term for term in terms) else False
