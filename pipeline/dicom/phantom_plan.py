"""How many phantom patients there are, of which kind, and what arrives in the stream."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.dicom.phantom_anatomy import generator
from pipeline.dicom.phantom_defects import Defect


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Patients of one split by truth; of each truth, `repeated` patients have a second study."""

    name: str
    finding: int
    no_finding: int
    repeated: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamEntry:
    """One study for triage: whether the head has a tumour, and what is wrong with what is sent."""

    finding: bool
    defect: Defect | None = None


@dataclass(frozen=True, kw_only=True)
class StudyOrder:
    """One study to be made; patient numbers say the split and nothing about the truth."""

    patient: int
    study: int
    finding: bool
    split: str | None
    defect: Defect | None


@dataclass(frozen=True, kw_only=True)
class PhantomPlan:
    """Labelled patients per split, and the stream of studies for triage."""

    splits: tuple[SplitPlan, ...]
    stream: tuple[StreamEntry, ...]

    @classmethod
    def demo(cls) -> PhantomPlan:
        """Some 690 studies: enough that the few truly ambiguous tumours do not cost every ROUTINE.

        Twelve misses among 200 still certify a limit of 0.10 with a delta of 0.05; 110 in tune let novelty p-values fall
        below 0.02.
        """
        return cls(
            splits=(
                SplitPlan(name="train", finding=50, no_finding=50, repeated=25),
                SplitPlan(name="tune", finding=55, no_finding=55),
                SplitPlan(name="certify", finding=200, no_finding=60),
                SplitPlan(name="test", finding=50, no_finding=50),
            ),
            stream=_stream(finding=25, no_finding=27),
        )

    @classmethod
    def small(cls) -> PhantomPlan:
        """A few seconds' worth: every split and every defect."""
        return cls(
            splits=(
                SplitPlan(name="train", finding=4, no_finding=4, repeated=1),
                *(SplitPlan(name=name, finding=3, no_finding=3) for name in ("tune", "certify", "test")),
            ),
            stream=_stream(finding=2, no_finding=2),
        )

    def orders(self, seed: int) -> list[StudyOrder]:
        """Every study, in the order of patients; which patient has a tumour depends on `seed`, split and counts alone."""
        orders = []
        for place, split in enumerate(self.splits, start=1):
            kinds = [(True, k < split.repeated) for k in range(split.finding)]
            kinds += [(False, k < split.repeated) for k in range(split.no_finding)]
            for number, kind in enumerate(generator(seed, split.name, "order").permutation(len(kinds)), start=1):
                finding, twice = kinds[kind]
                patient = 1000 * place + number
                order = StudyOrder(patient=patient, study=1, finding=finding, split=split.name, defect=None)
                orders += [order, replace(order, study=2)] if twice else [order]
        for number, index in enumerate(generator(seed, "stream", "order").permutation(len(self.stream)), start=1):
            entry = self.stream[index]
            orders.append(
                StudyOrder(patient=9000 + number, study=1, finding=entry.finding, split=None, defect=entry.defect)
            )
        return orders


def _stream(*, finding: int, no_finding: int) -> tuple[StreamEntry, ...]:
    entries = [StreamEntry(finding=True)] * finding + [StreamEntry(finding=False)] * no_finding
    entries += [StreamEntry(finding=number % 2 == 0, defect=defect) for number, defect in enumerate(Defect)]
    return tuple(entries)
