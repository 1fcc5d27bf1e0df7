from __future__ import annotations

import hashlib
import hmac

import pytest

from pipeline.domain.audit_sampling import drawn_for_audit

KEY = b"k" * 32


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_share_drawn_is_the_share_asked_for(share: float) -> None:
    drawn = sum(drawn_for_audit(KEY, f"case-{i}", share) for i in range(20_000))
    assert abs(drawn / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_the_draw_is_the_keyed_hash_of_the_case() -> None:
    first = int.from_bytes(hmac.new(KEY, b"case-1", hashlib.sha256).digest()[:8], "big") / 2**64
    assert drawn_for_audit(KEY, "case-1", min(1.0, first + 1e-9))
    assert not drawn_for_audit(KEY, "case-1", first - 1e-9)


def test_the_draw_is_repeatable_and_another_key_draws_others() -> None:
    cases = [f"case-{i}" for i in range(500)]
    first = [drawn_for_audit(KEY, case, 0.3) for case in cases]
    assert first == [drawn_for_audit(KEY, case, 0.3) for case in cases]
    assert first != [drawn_for_audit(b"other", case, 0.3) for case in cases]


def test_a_larger_share_keeps_those_drawn_before() -> None:
    cases = [f"case-{i}" for i in range(500)]
    assert all(drawn_for_audit(KEY, case, 0.4) for case in cases if drawn_for_audit(KEY, case, 0.1))


def test_a_share_of_one_draws_all_and_of_zero_none() -> None:
    assert all(drawn_for_audit(KEY, f"case-{i}", 1.0) for i in range(200))
    assert not any(drawn_for_audit(KEY, f"case-{i}", 0.0) for i in range(200))


@pytest.mark.parametrize(
    ("key", "case", "share"),
    [(b"", "a", 0.1), (KEY, "", 0.1), (KEY, "a", -0.1), (KEY, "a", 1.1), (KEY, "a", float("nan"))],
)
def test_a_draw_that_means_nothing_is_refused(key: bytes, case: str, share: float) -> None:
    with pytest.raises(ValueError, match="audit"):
        drawn_for_audit(key, case, share)
