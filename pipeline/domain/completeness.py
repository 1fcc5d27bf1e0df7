"""Whether images of a study are missing, from what its headers say; nothing here looks at pixels.

Every series must be proven: by the count of the PACS, by the one its headers announce (ImagesInAcquisition), or by InstanceNumbers that run from
0 or 1 without a gap, no gap between slice positions and a sender that has been quiet. What headers cannot show is a
missing end of a series whose sender announces no count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.domain.announced import CountFinding
from pipeline.domain.case import Reason
from pipeline.domain.study import Completeness, InstanceHeader, SealEvidence

GAP = 1.5
"""Neighbouring slices further apart than this many median spacings have one missing between them."""

SAME_PLACE_MM = 1e-2
"""Slices closer than this along the normal are at one place."""

SAME_DIRECTION = 1e-3
"""Largest difference between direction cosines of one orientation."""


@dataclass(frozen=True)
class Finding:
    """What one look says, how it was found and in one sentence."""

    completeness: Completeness
    kind: str  #: "expected_count", "gap_check" or "quiet_time"
    detail: str


def seal_evidence(
    headers: Sequence[InstanceHeader],
    *,
    quarantined: int,
    unreadable: int,
    problems: Iterable[Reason] = (),
    forced: bool = False,
    counted: CountFinding | None = None,
) -> SealEvidence:
    """The evidence stored with a revision; of `quarantined` images, `unreadable` ones leave a gap for certain.

    `forced` says that a person or a command vouched for the sender's silence instead of the quiet time. `counted` is
    what the counts of the PACS say, where it was asked and answered.
    """
    finding = _weighed(judge_completeness(headers, unreadable), counted)
    return SealEvidence(
        completeness=finding.completeness,
        kind="forced" if forced and finding.kind == "quiet_time" else finding.kind,
        detail=f"{finding.detail}; sealed on request" if forced else finding.detail,
        instances=len(headers),
        series=len({header.series_instance_uid for header in headers}),
        quarantined=quarantined,
        problems=tuple(str(problem) for problem in problems),
    )


def _weighed(found: Finding, counted: CountFinding | None) -> Finding:
    """What images show and what the PACS counts; either can contradict.

    A count that is met proves a study of which the images show nothing. It does not outweigh numbering or positions that
    look wrong: the PACS may lack what we lack.
    """
    if counted is None or counted.completeness is Completeness.UNKNOWN:
        return found
    if counted.completeness is Completeness.CONTRADICTED:
        return Finding(Completeness.CONTRADICTED, "expected_count", counted.detail)
    if found.completeness is Completeness.PROVEN or (found.completeness, found.kind) == _NOTHING_SHOWN:
        return Finding(Completeness.PROVEN, "expected_count", counted.detail)
    return found


_NOTHING_SHOWN = (Completeness.UNKNOWN, "quiet_time")


def judge_completeness(headers: Sequence[InstanceHeader], unreadable: int) -> Finding:
    """The worst finding over all series of a quiet study with `unreadable` images beside those of `headers`."""
    if unreadable:
        return Finding(Completeness.CONTRADICTED, "gap_check", f"{_images(unreadable)} cannot be read")
    series: dict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        series[header.series_instance_uid].append(header)
    if not series:
        return Finding(Completeness.UNKNOWN, "quiet_time", "there are no images")
    findings = [_judge_series(members) for members in series.values()]
    worst = min(findings, key=lambda finding: (_ORDER.index(finding.completeness), finding.kind == "quiet_time"))
    if worst.completeness is Completeness.PROVEN:
        return _proof(findings)
    return worst


_ORDER = (Completeness.CONTRADICTED, Completeness.UNKNOWN, Completeness.PROVEN)


def _proof(findings: Sequence[Finding]) -> Finding:
    counted = all(finding.kind == "expected_count" for finding in findings)
    kind = "expected_count" if counted else "gap_check"
    what = "the announced counts were met" if counted else "numbering and positions leave no gap"
    return Finding(Completeness.PROVEN, kind, f"{what} in {len(findings)} series")


def _judge_series(headers: Sequence[InstanceHeader]) -> Finding:
    announced, others = _announced_count(headers), (_numbering(headers), _positions(headers))
    found = [look for look in (announced, *others) if look is not None]
    for look in found:
        if look.completeness is Completeness.CONTRADICTED:
            return look
    if announced is not None:
        return announced
    unknown = Finding(Completeness.UNKNOWN, "quiet_time", "nothing shows how many images a series has")
    return min(found, key=lambda look: _ORDER.index(look.completeness), default=unknown)


def _announced_count(headers: Sequence[InstanceHeader]) -> Finding | None:
    """ImagesInAcquisition against the images of each acquisition, or of the series where scanners count that."""
    groups: dict[int | None, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        groups[header.acquisition_number].append(header)
    announced = {h.images_in_acquisition for h in headers}
    if None in announced or not all(value > 0 for value in announced if value is not None):
        return None
    missing = [n for n in (_lacking(group, len(headers)) for group in groups.values()) if n]
    if missing:
        return Finding(
            Completeness.CONTRADICTED, "expected_count", f"{_images(sum(missing))} fewer than a series announces"
        )
    return Finding(Completeness.PROVEN, "expected_count", "the announced count was met")


def _lacking(group: Sequence[InstanceHeader], in_series: int) -> int:
    expected = max(header.images_in_acquisition or 0 for header in group)
    return 0 if expected in (len(group), in_series) else max(0, expected - len(group))


def _numbering(headers: Sequence[InstanceHeader]) -> Finding | None:
    numbers = sorted(header.instance_number for header in headers if header.instance_number is not None)
    if len(numbers) < len(headers):
        return None
    absent = numbers[-1] - numbers[0] + 1 - len(set(numbers))
    if absent:
        return Finding(Completeness.CONTRADICTED, "gap_check", f"the numbering of a series skips {_images(absent)}")
    if len(set(numbers)) < len(numbers):
        return Finding(Completeness.UNKNOWN, "gap_check", "a series uses one number for several images")
    if numbers[0] not in (0, 1):
        return Finding(Completeness.UNKNOWN, "gap_check", "the numbering of a series does not begin at its first image")
    return Finding(Completeness.PROVEN, "gap_check", "numbering and positions leave no gap")


def _positions(headers: Sequence[InstanceHeader]) -> Finding | None:
    """A gap between slices of one orientation; positions alone never prove that the ends are there."""
    places = _places_mm(headers)
    if places is None:
        return None
    levels, repeats = _levels(places)
    if len(levels) < 3:
        return None
    steps = np.diff(np.array(levels))
    if float(steps.max()) > GAP * float(np.median(steps)):
        return Finding(Completeness.CONTRADICTED, "gap_check", "a slice is missing between two others of a series")
    if len(repeats) > 1:
        return Finding(
            Completeness.UNKNOWN, "gap_check", "a series has more images at some slice positions than others"
        )
    return None


def _places_mm(headers: Sequence[InstanceHeader]) -> list[float] | None:
    """Distances along the slice normal, mm, sorted; None unless all single-frame slices share one orientation."""
    if any(h.image_position is None or h.image_orientation is None or h.number_of_frames > 1 for h in headers):
        return None
    directions = np.array([header.image_orientation for header in headers], dtype=float)
    positions = np.array([header.image_position for header in headers], dtype=float)
    if directions.shape[1:] != (6,) or float(np.ptp(directions, axis=0).max()) > SAME_DIRECTION:
        return None
    normal = np.cross(directions[0, :3], directions[0, 3:])
    return sorted(float(place) for place in positions @ normal)


def _levels(places: Iterable[float]) -> tuple[list[float], set[int]]:
    """Distinct places, and the set of how many slices lie at one."""
    counts: Counter[float] = Counter()
    level: float | None = None
    for place in places:
        if level is None or place - level > SAME_PLACE_MM:
            level = place
        counts[level] += 1
    return list(counts), set(counts.values())


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
