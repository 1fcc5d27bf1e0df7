"""A case: one study put to one triage protocol, its states, routes and reasons."""

from __future__ import annotations

from enum import StrEnum


class Route(StrEnum):
    """Where a case goes; every sealed study gets exactly one per protocol."""

    PRIORITY = "PRIORITY"  #: A confident finding: to the front of the list.
    ROUTINE = "ROUTINE"  #: Certified confidence that the finding is absent; keeps its ordinary place.
    REVIEW = "REVIEW"  #: The model defers: a named specialty reads it.
    OUT_OF_SCOPE = "OUT_OF_SCOPE"  #: The protocol does not apply; the reason is stored and shown.


class Reason(StrEnum):
    """Why a case went where it went; shown to the reader in words."""

    CONFIDENT_FINDING = "CONFIDENT_FINDING"  #: The certified upper threshold is passed.
    CONFIDENT_ABSENCE = "CONFIDENT_ABSENCE"  #: Every guard of the certified lower threshold is true.
    UNCERTAIN = "UNCERTAIN"  #: The score lies between the thresholds, or the members disagree too much.
    NOVEL = "NOVEL"  #: The images do not look like those the release was fitted on.
    INCOMPLETE = "INCOMPLETE"  #: Images are missing, or nothing proves that none is.
    UNREADABLE = "UNREADABLE"  #: Images arrived but cannot be decoded.
    LOW_QUALITY = "LOW_QUALITY"  #: Blank, saturated, moved or otherwise unfit images.
    NO_SERIES = "NO_SERIES"  #: No series of the study satisfies the protocol's series rule.
    AMBIGUOUS_SERIES = "AMBIGUOUS_SERIES"  #: Several series satisfy the rule and it names no winner.
    IRREGULAR_GEOMETRY = "IRREGULAR_GEOMETRY"  #: Positions, orientation or matrix sizes do not form one regular volume.
    IDENTITY_CONFLICT = "IDENTITY_CONFLICT"  #: The study carries more than one patient identity.
    CONFLICTING_INSTANCE = "CONFLICTING_INSTANCE"  #: One SOPInstanceUID arrived with two contents.
    NOT_ANALYSED = "NOT_ANALYSED"  #: The analysis did not finish: no release, an exception, a time-out.
    RELEASE_INVALID = "RELEASE_INVALID"  #: The release's digest, protocol or certificate does not match.
    NOT_CERTIFIED = "NOT_CERTIFIED"  #: The release holds no certified threshold for this side of the policy.
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"  #: The certificate's last day has passed.
    UNCERTAINTY_INVALID = "UNCERTAINTY_INVALID"  #: A member or pass is missing, or a number is not finite.
    STOPPED = "STOPPED"  #: The safe state is on: everything goes to clinicians.
    LATE_DATA = "LATE_DATA"  #: Images arrived after the study was sealed.
    DISCORDANT = "DISCORDANT"  #: Two reads disagree.
    WRONG_MODALITY = "WRONG_MODALITY"  #: The protocol is not for this modality.
    WRONG_BODY_PART = "WRONG_BODY_PART"  #: The protocol is not for this body part.
    WRONG_AGE = "WRONG_AGE"  #: The protocol is not for this age.
    WRONG_DEVICE = "WRONG_DEVICE"  #: The protocol is not for this manufacturer or model.
    NOT_AN_IMAGE = "NOT_AN_IMAGE"  #: The study holds reports or other objects and no image.
    SCOPE_UNKNOWN = "SCOPE_UNKNOWN"  #: A tag that the protocol's scope asks for is missing.


class CaseState(StrEnum):
    """Where a case stands on its way to a decision."""

    READY = "READY"  #: Sealed and waiting for triage.
    CLAIMED = "CLAIMED"  #: Held by one worker under a lease and a fencing token.
    DECIDED = "DECIDED"  #: Has its route.
    SUPERSEDED = "SUPERSEDED"  #: A later revision of the study replaced it before or after its decision.


class ItemState(StrEnum):
    """Where a worklist item stands (DICOM UPS procedure step states, PS3.4 CC.1.1)."""

    SCHEDULED = "SCHEDULED"  #: Waiting for a reader.
    IN_PROGRESS = "IN_PROGRESS"  #: Held by one reader under a lease and a fencing token.
    COMPLETED = "COMPLETED"  #: Read.
    CANCELED = "CANCELED"  #: Replaced by a later revision; nothing is left to read here.


OUT_OF_SCOPE_REASONS = frozenset(
    {Reason.WRONG_MODALITY, Reason.WRONG_BODY_PART, Reason.WRONG_AGE, Reason.WRONG_DEVICE, Reason.NOT_AN_IMAGE}
)
