"""Studies of this house as de-identified copies in a folder, with a trace of every export in the audit trail."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.bootstrap import House
from pipeline.dicom.deidentify import DeidentifiedInstance
from pipeline.dicom.exporting import MANIFEST, Deidentify, ExportSummary, LabelledSeries, export_series
from pipeline.errors import DeferCase, HaltPipeline, RejectInstance
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, export_rows

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The series to export, and to which study of ours each of their files belongs."""

    series: Sequence[LabelledSeries]
    study_of: Mapping[Path, str]
    empty: Sequence[str]  #: studies without an accepted image


def studies_named(house: House, names: Sequence[str], *, every: bool) -> list[str]:
    """Ids of the named studies, or of every sealed one. Raises HaltPipeline for a name that is none."""
    if every == bool(names):
        raise HaltPipeline("name studies to export, or give --all; one of the two")
    with house.database.read() as connection:
        if every:
            return export_rows.sealed_studies(connection)
        found = [export_rows.sealed_study(connection, name) for name in names]
    if None in found:
        place = found.index(None) + 1
        raise HaltPipeline(f"name {place} is no sealed study, no case and no StudyInstanceUID here; see the worklist")
    return list(dict.fromkeys(study for study in found if study is not None))


def export_studies(
    house: House, studies: Sequence[str], folder: Path, *, protocol: TriageProtocol | None, on_progress: OnProgress
) -> dict[str, Any]:
    """Write the accepted images of those studies under a new `folder`; `protocol` is whose reads become labels, if any.

    Raises HaltPipeline, RetryLater.
    """
    chosen = _chosen(house, studies, protocol)
    left_out = [{"study": study, "reason": "no_accepted_image", "images": 0} for study in chosen.empty]

    def note(series: LabelledSeries, refusal: RejectInstance) -> None:
        study = chosen.study_of[series.paths[0]]
        left_out.append({"study": study, "reason": refusal.reason, "images": len(series.paths)})

    asked_for = {"studies": len(studies), "studies_digest": _digest_of(studies)}
    _record(house, "export_begun", asked_for)
    try:
        listed = _counted(chosen.series, on_progress)
        done = export_series(listed, folder, _deidentifier(house, chosen), on_refused=note)
        manifest_digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise HaltPipeline(f"the export cannot be written ({error.strerror}); name a folder that can") from error
    counts = _counts(done, chosen, left_out)
    _record(house, "studies_exported", asked_for | counts | {"manifest_sha256": manifest_digest})
    return {"folder": str(folder), **asked_for, **counts, "manifest_sha256": manifest_digest, "left_out": left_out}


def _chosen(house: House, studies: Sequence[str], protocol: TriageProtocol | None) -> _Chosen:
    listed, study_of, empty = list[LabelledSeries](), dict[Path, str](), list[str]()
    with house.database.read() as connection:
        for study in studies:
            series = export_rows.accepted_series(connection, study)
            found = set() if protocol is None else export_rows.findings(connection, study, protocol.name)
            for digests in series:
                paths = tuple(house.blobs.path(digest) for digest in digests)
                listed.append(LabelledSeries(paths=paths, label=_label(found, protocol)))
                study_of |= dict.fromkeys(paths, study)
            if not series:
                empty.append(study)
    return _Chosen(series=listed, study_of=study_of, empty=empty)


def _label(found: set[str], protocol: TriageProtocol | None) -> str:
    """The class that every read names; nothing where they differ or one could not be made."""
    if protocol is None or len(found) != 1 or not found <= set(protocol.class_names):
        return ""
    return next(iter(found))


def _counted(series: Sequence[LabelledSeries], on_progress: OnProgress) -> Iterator[LabelledSeries]:
    for place, one in enumerate(series):
        on_progress(place, len(series))
        yield one
    on_progress(len(series), len(series))


def _deidentifier(house: House, chosen: _Chosen) -> Deidentify:
    """What de-identifies one file; a second study with a SeriesInstanceUID of its patient's first is refused."""
    written: dict[tuple[str, str], str] = {}

    def deidentified(path: Path) -> DeidentifiedInstance:
        found, study = _deidentified(house, path), chosen.study_of[path]
        if written.setdefault((found.patient, found.series_instance_uid), study) != study:
            raise RejectInstance("repeated_series", "a series of another study has this SeriesInstanceUID")
        return found

    return deidentified


def _deidentified(house: House, path: Path) -> DeidentifiedInstance:
    try:
        return house.sandbox.deidentify(house.blobs.verified(path.name), key=house.keys.export)
    except DeferCase:
        raise RejectInstance("lost_bytes", "the stored bytes are absent or no longer those received") from None


def _counts(done: ExportSummary, chosen: _Chosen, left_out: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    images = sum(len(series.paths) for series in chosen.series)
    return {
        "series": done.series,
        "images": images - sum(row["images"] for row in left_out),
        "refused": dict(sorted(Counter(row["reason"] for row in left_out).items())),
    }


def _digest_of(studies: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(studies)).encode()).hexdigest()


def _record(house: House, event: str, payload: dict[str, Any]) -> None:
    with house.database.transaction() as connection:
        audit_rows.append(connection, at=datetime.now(UTC), actor="export", event=event, payload=payload)
