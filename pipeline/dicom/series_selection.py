"""Which series of a study the protocol reads: selected, none or ambiguous, never the first that comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.dicom.kleene import Truth, agreed, all_of
from pipeline.dicom.orientation import plane_of
from pipeline.domain.study import InstanceHeader
from pipeline.protocol import SeriesRule, SeriesUse

Series = tuple[InstanceHeader, ...]


class SelectionOutcome(StrEnum):
    """What became of the choice."""

    SELECTED = "selected"  #: The rule names the series.
    NONE = "none"  #: No series can satisfy the rule.
    AMBIGUOUS = "ambiguous"  #: Several satisfy it without a winner, or a missing tag leaves it open.


@dataclass(frozen=True, kw_only=True)
class SeriesSelection:
    """The chosen series, each ordered by instance number, and one sentence without patient data."""

    outcome: SelectionOutcome
    series: tuple[Series, ...] = ()
    detail: str = ""


def select_series(
    headers: Sequence[InstanceHeader], rule: SeriesRule, *, modality: Sequence[str] = ()
) -> SeriesSelection:
    """The series among `headers` that `rule` names; with `modality`, only series of those modalities are asked.

    A series that a missing tag leaves open is still a candidate: unless a certain one clearly wins, the choice is
    ambiguous.
    """
    grouped = series_of(headers)
    judged = [(series, all_of([_has_modality(series, modality), satisfies(series, rule)])) for series in grouped]
    certain = [series for series, truth in judged if truth is True]
    unknown = [series for series, truth in judged if truth is None]
    if not certain and not unknown:
        return SeriesSelection(outcome=SelectionOutcome.NONE, detail=f"none of {len(grouped)} series fits the rule")
    if len({header.modality for series in certain for header in series}) > 1:
        return _ambiguous("series of several modalities fit the rule")
    return _all(certain, unknown) if rule.use is SeriesUse.ALL else _one(certain, unknown, rule)


def series_of(headers: Sequence[InstanceHeader]) -> list[Series]:
    """The headers grouped by SeriesInstanceUID, in order of UID, each by instance number."""
    grouped: dict[str, list[InstanceHeader]] = {}
    for header in headers:
        grouped.setdefault(header.series_instance_uid, []).append(header)
    return [tuple(sorted(grouped[uid], key=_place)) for uid in sorted(grouped)]


def satisfies(series: Series, rule: SeriesRule) -> Truth:
    """Whether the series fits the rule; None when a tag that the rule asks for is missing or differs in the series."""
    fewest, most = rule.slices
    return all_of(
        [
            fewest <= slices_of(series) <= most,
            True if rule.orientation is None else _has_orientation(series, rule.orientation),
            all_of(_is_allowed_type(header, rule.exclude_image_types) for header in series),
            _is_described(series, rule.description_any),
        ]
    )


def slices_of(series: Series) -> int:
    """Frames of all instances together."""
    return sum(header.number_of_frames for header in series)


def _all(certain: list[Series], unknown: list[Series]) -> SeriesSelection:
    if unknown:
        return _ambiguous(f"missing tags leave {len(unknown)} series open")
    return SeriesSelection(
        outcome=SelectionOutcome.SELECTED, series=tuple(certain), detail=f"{len(certain)} series fit the rule"
    )


def _one(certain: list[Series], unknown: list[Series], rule: SeriesRule) -> SeriesSelection:
    if len(certain) == 1 and not unknown:
        return _selected(certain[0], "one series fits the rule")
    if not certain:
        return _ambiguous(f"missing tags leave {len(unknown)} series open")
    if rule.prefer is None:
        return _ambiguous(f"{len(certain)} series fit the rule and {len(unknown)} may")
    ranked = sorted([*certain, *unknown], key=slices_of, reverse=True)
    if ranked[0] in certain and (len(ranked) == 1 or slices_of(ranked[0]) > slices_of(ranked[1])):
        return _selected(ranked[0], f"most slices among {len(ranked)} candidates")
    return _ambiguous(f"{len(ranked)} candidates and none has the most slices for certain")


def _selected(series: Series, detail: str) -> SeriesSelection:
    return SeriesSelection(outcome=SelectionOutcome.SELECTED, series=(series,), detail=detail)


def _ambiguous(detail: str) -> SeriesSelection:
    return SeriesSelection(outcome=SelectionOutcome.AMBIGUOUS, detail=detail)


def _place(header: InstanceHeader) -> tuple[bool, int, str]:
    return header.instance_number is None, header.instance_number or 0, header.sop_instance_uid


def _has_modality(series: Series, wanted: Sequence[str]) -> Truth:
    if not wanted:
        return True
    return agreed(None if header.modality is None else header.modality.upper() in wanted for header in series)


def _has_orientation(series: Series, wanted: str) -> Truth:
    planes = {plane_of(header.image_orientation) for header in series}
    if None in planes:
        return None
    return planes == {wanted}


def _is_allowed_type(header: InstanceHeader, excluded: Sequence[str]) -> Truth:
    if not excluded:
        return True
    if not header.image_type:
        return None
    return {value.upper() for value in header.image_type}.isdisjoint(excluded)


def _is_described(series: Series, words: Sequence[str]) -> Truth:
    if not words:
        return True
    descriptions = [header.series_description for header in series]
    return agreed(None if text is None else any(word in text.lower() for word in words) for text in descriptions)
