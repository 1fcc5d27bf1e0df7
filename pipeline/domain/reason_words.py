"""What a reason says to a reader: a few words and a sentence, and never 'normal', 'negative' or 'cleared'."""

from __future__ import annotations

from typing import Final

from pipeline.domain.case import Reason

REASON_WORDS: Final[dict[str, tuple[str, str]]] = {
    Reason.CONFIDENT_FINDING: ("Read early", "This study was flagged to be read before others."),
    Reason.CONFIDENT_ABSENCE: ("No priority flag", "The study keeps its ordinary place in the ordinary reading list."),
    Reason.UNCERTAIN: ("The model is uncertain", "The model is not sure enough to speak about this study."),
    Reason.NOVEL: ("Unlike known images", "The images do not look like those the model was fitted on."),
    Reason.INCOMPLETE: ("Images are missing", "Images are missing, or nothing proves that none is."),
    Reason.UNREADABLE: ("Images cannot be decoded", "Images arrived but cannot be decoded."),
    Reason.LOW_QUALITY: ("Poor image quality", "Images are blank, saturated, moved or otherwise unfit for the model."),
    Reason.NO_SERIES: ("No suitable series", "No series of the study is the kind the model reads."),
    Reason.AMBIGUOUS_SERIES: ("Several series fit", "Several series could be meant and the protocol names no winner."),
    Reason.IRREGULAR_GEOMETRY: ("Slices do not line up", "The slices do not form one regular volume."),
    Reason.IDENTITY_CONFLICT: ("Two patient identities", "The study carries more than one patient identity."),
    Reason.CONFLICTING_INSTANCE: ("Conflicting images", "One image identifier arrived with two different contents."),
    Reason.NOT_ANALYSED: ("The model did not answer", "The analysis did not finish; nothing is known from the model."),
    Reason.RELEASE_INVALID: ("The model is not trusted", "The model's release did not verify, so it was not used."),
    Reason.NOT_CERTIFIED: ("No certified limit", "No limit is certified for this decision, so a clinician decides."),
    Reason.CERTIFICATE_EXPIRED: ("Certificate has expired", "The model's certificate has passed its last day."),
    Reason.UNCERTAINTY_INVALID: (
        "Uncertainty not measured",
        "A part of the ensemble failed, so its spread is unknown.",
    ),
    Reason.STOPPED: ("Automation is stopped", "The stop rule is on: every study goes to a clinician."),
    Reason.LATE_DATA: ("Late images arrived", "Images arrived after the study was taken as complete."),
    Reason.DISCORDANT: ("Two reads disagree", "Two readers disagree; this read decides."),
    Reason.WRONG_MODALITY: ("Other modality", "The protocol is not for this modality."),
    Reason.WRONG_BODY_PART: ("Other body part", "The protocol is not for this body part."),
    Reason.WRONG_AGE: ("Other age", "The protocol is not for this age."),
    Reason.WRONG_DEVICE: ("Other scanner", "The protocol was not made for this scanner."),
    Reason.NOT_AN_IMAGE: ("No images", "The study holds reports or other objects and no image."),
    Reason.SCOPE_UNKNOWN: ("Scope not certain", "A tag that says whether the protocol applies is missing."),
}

ROUTE_WORDS: Final = {
    "PRIORITY": "Priority: to the front of the reading list",
    "ROUTINE": "Routine: ordinary place in the list, not a rule-out",
    "REVIEW": "Review: a named specialty reads it",
    "OUT_OF_SCOPE": "Out of scope: the protocol does not apply",
}
"""What a route says outside the house."""


def in_words(reason: str) -> str:
    """The few words of a reason; an unknown code as it reads."""
    return REASON_WORDS.get(reason, (reason.replace("_", " ").lower(), ""))[0]
