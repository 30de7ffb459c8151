"""How long a failed task waits, and which failures are worth another attempt.

Numbers only: the jitter is drawn by the caller, and an exception arrives as the names of its
classes, so that a rule can be written in the journal and applied without importing anything.
"""

from __future__ import annotations

import msgspec

__all__ = ("DEFAULT_RULE", "RetryRule", "backoff_us", "is_retryable")

ANY_EXCEPTION = "builtins:Exception"


class RetryRule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A retry policy as an event stores it: times in microseconds, exceptions by class name."""

    max_retries: int = 3
    base_delay_us: int = 1_000_000
    factor: float = 2.0
    max_delay_us: int = 3_600_000_000
    jitter: float = 0.25
    retry_on: tuple[str, ...] = (ANY_EXCEPTION,)
    never_on: tuple[str, ...] = ()


DEFAULT_RULE = RetryRule()


def backoff_us(rule: RetryRule, retry: int, drawn: float) -> int:
    """Return the wait in microseconds before retry number `retry` (the first is 1).

    It is at most `min(max_delay, base_delay * factor ** (retry - 1))`. `drawn`, between 0 and 1,
    takes up to the rule's share of `jitter` away from that and never adds: a cap stays a cap
    (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015, found that spreading retries
    out matters more than the exact curve).
    """
    try:
        uncapped = rule.base_delay_us * rule.factor ** (retry - 1)
    except OverflowError:
        uncapped = float(rule.max_delay_us) if rule.base_delay_us else 0.0
    # Written so that what is not a number, as only a forged rule has it, is no delay.
    ceiling = uncapped if uncapped < rule.max_delay_us else float(rule.max_delay_us)
    delay = ceiling * (1.0 - rule.jitter * drawn)
    return int(delay) if 0.0 < delay <= rule.max_delay_us else 0


def is_retryable(rule: RetryRule, class_names: tuple[str, ...]) -> bool:
    """Say whether an exception with these `"module:qualname"` classes in its MRO is retried."""
    if any(name in rule.never_on for name in class_names):
        return False
    return any(name in rule.retry_on for name in class_names)
