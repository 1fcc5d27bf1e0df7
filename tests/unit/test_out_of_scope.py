from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import decide
from pipeline.domain.evidence import Evidence, ScopeVerdict
from pipeline.domain.study import Completeness, SealEvidence

TODAY = date(2026, 3, 1)


def seal(**changes: Any) -> SealEvidence:
    values: dict[str, Any] = {
        "completeness": Completeness.UNKNOWN,
        "kind": "quiet_time",
        "detail": "",
        "instances": 4,
        "series": 1,
        "quarantined": 0,
    }
    return SealEvidence(**{**values, **changes})


def sealed(**changes: Any) -> Evidence:
    return Evidence(**{"scope": None, "seal": seal(), "safe_state": False, **changes})


def test_a_foreign_study_is_out_of_scope_with_its_reasons_and_needs_no_release() -> None:
    scope = ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_MODALITY, Reason.WRONG_BODY_PART), detail="CT CHEST")
    found = decide(sealed(scope=scope), None, TODAY)
    assert (found.route, found.reasons) == (Route.OUT_OF_SCOPE, (Reason.WRONG_MODALITY, Reason.WRONG_BODY_PART))
    assert found.details == ("CT CHEST",)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": ScopeVerdict(in_scope=False)},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.NOVEL,))},
        {"scope": ScopeVerdict(in_scope=False, reasons=("WRONG_AGE",))},
        {"scope": ScopeVerdict(in_scope=0, reasons=(Reason.WRONG_AGE,))},
        {"scope": ScopeVerdict(in_scope=None, reasons=(Reason.WRONG_AGE,))},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,)), "safe_state": True},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,)), "safe_state": None},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,)), "seal": seal(quarantined=1)},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,)), "seal": seal(quarantined=False)},
        {"scope": ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,)), "seal": None},
    ],
    ids=[
        "without a reason",
        "with a reason of another kind",
        "with a plain word",
        "not literally False",
        "unknown",
        "in the safe state",
        "with the safe state unknown",
        "with images in quarantine",
        "with False in quarantine",
        "never sealed",
    ],
)
def test_a_scope_verdict_that_is_not_proven_is_reviewed(changes: dict[str, Any]) -> None:
    found = decide(sealed(**changes), None, TODAY)
    assert found.route == Route.REVIEW
    assert found.reasons


def test_a_foreign_study_with_images_in_quarantine_still_shows_why_it_looked_foreign() -> None:
    scope = ScopeVerdict(in_scope=False, reasons=(Reason.WRONG_AGE,), detail="age 3")
    found = decide(sealed(scope=scope, seal=seal(quarantined=1)), None, TODAY)
    assert found.reasons == (Reason.WRONG_AGE, Reason.INCOMPLETE, Reason.UNREADABLE)
    assert "age 3" in found.details
