"""What the PACS says a study holds, against what we hold of it: the strongest evidence that nothing is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain.study import Completeness

#: Modalities of objects that are no images: their absence leaves no gap (PS3.3 C.7.3.1.1.1).
NOT_IMAGES = frozenset(
    {"SR", "PR", "KO", "SEG", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "AU", "ECG", "HD", "FID", "RWV"}
    | {"PLAN", "SMR", "TEXTUREMAP", "ASMT", "STAIN", "ANN"}
)


@dataclass(frozen=True, kw_only=True)
class AnnouncedSeries:
    """One series as the PACS counts it; `instances` is None where it does not."""

    uid: str
    modality: str | None
    instances: int | None


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """The answer of the PACS of that name to what it holds of a study."""

    source: str
    series: tuple[AnnouncedSeries, ...]
    other_patient: bool = False


@dataclass(frozen=True, kw_only=True)
class CountFinding:
    """What the counts say, in one sentence."""

    completeness: Completeness
    detail: str


def judge_counts(announcement: Announcement, held: Mapping[str, int], ours: Sequence[str] = ()) -> CountFinding:
    """The announced image series against `held`, distinct instances by series; series in `ours` are our own results.

    More than we hold contradicts. A count that is absent or smaller than ours, a series that the PACS does not know, or no
    image series at all proves nothing.
    """
    source = announcement.source
    images = [s for s in announcement.series if s.modality not in NOT_IMAGES and s.uid not in ours]
    lacking = sum(max(0, (s.instances or 0) - held.get(s.uid, 0)) for s in images)
    if lacking:
        what = "1 image" if lacking == 1 else f"{lacking} images"
        return CountFinding(completeness=Completeness.CONTRADICTED, detail=f"{source} holds {what} that did not come")
    unknown = set(held) - {s.uid for s in announcement.series} - set(ours)
    if images and not unknown and all(s.instances == held.get(s.uid) for s in images):
        counted = sum(held.get(s.uid, 0) for s in images)
        detail = f"{source} counts the same {counted} instances in {len(images)} series"
        return CountFinding(completeness=Completeness.PROVEN, detail=detail)
    return CountFinding(completeness=Completeness.UNKNOWN, detail=f"{source} does not count the images that we hold")
