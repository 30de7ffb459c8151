"""The arithmetic of waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniq.core.retry import DEFAULT_RULE, RetryRule, backoff_us, is_retryable

SECOND = 1_000_000
RULES = st.builds(
    RetryRule,
    base_delay_us=st.integers(0, 10**13),
    factor=st.floats(1, 1e6),
    max_delay_us=st.integers(0, 10**15),
    jitter=st.floats(0, 1),
)
RETRIES = st.integers(1, 10**6)
DRAWN = st.floats(0, 1)


def test_default_rule_is_the_documented_one_and_never_changes():
    assert DEFAULT_RULE == RetryRule(  # noqa: SIM300 - it is not the expectation
        max_retries=3,
        base_delay_us=SECOND,
        factor=2.0,
        max_delay_us=3600 * SECOND,
        jitter=0.25,
        retry_on=("builtins:Exception",),
        never_on=(),
    )


@pytest.mark.parametrize(
    ("retry", "seconds"),
    [(1, 1), (2, 2), (3, 4), (4, 8), (11, 1024), (12, 2048), (13, 3600), (14, 3600), (5000, 3600)],
)
def test_wait_doubles_up_to_an_hour_by_default(retry, seconds):
    assert backoff_us(DEFAULT_RULE, retry, 0.0) == seconds * SECOND


@pytest.mark.parametrize(
    ("rule", "waits"),
    [
        ({"factor": 1.0}, [100, 100, 100]),
        ({"factor": 3.0}, [100, 300, 900]),
        ({"factor": 0.5}, [100, 50, 25]),
        ({"factor": 1.5}, [100, 150, 225]),
        ({"max_delay_us": 250}, [100, 200, 250]),
        ({"max_delay_us": 50}, [50, 50, 50]),
        ({"max_delay_us": 0}, [0, 0, 0]),
        ({"base_delay_us": 0}, [0, 0, 0]),
    ],
)
def test_waits_of_a_rule(rule, waits):
    rule = RetryRule(**{"base_delay_us": 100, **rule})
    assert [backoff_us(rule, retry, 0.0) for retry in (1, 2, 3)] == waits


@pytest.mark.parametrize(
    ("jitter", "drawn", "wait"),
    [
        (0.0, 1.0, 1000),
        (0.25, 0.0, 1000),
        (0.25, 0.5, 875),
        (0.25, 1.0, 750),
        (1.0, 0.5, 500),
        (1.0, 1.0, 0),
    ],
)
def test_jitter_takes_its_share_away(jitter, drawn, wait):
    assert backoff_us(RetryRule(base_delay_us=1000, jitter=jitter), 1, drawn) == wait


@pytest.mark.parametrize("retry", [1025, 10**4, 10**9])
@pytest.mark.parametrize("base", [1, SECOND])
def test_number_too_large_for_a_float_is_the_cap(base, retry):
    assert backoff_us(RetryRule(base_delay_us=base), retry, 0.0) == 3600 * SECOND


@pytest.mark.parametrize("retry", [1, 1025, 10**9])
def test_no_delay_is_no_wait_at_any_retry(retry):
    assert backoff_us(RetryRule(base_delay_us=0), retry, 0.0) == 0


@given(RULES, RETRIES, DRAWN)
def test_jitter_never_adds_and_a_cap_stays_a_cap(rule, retry, drawn):
    unjittered = backoff_us(rule, retry, 0.0)
    wait = backoff_us(rule, retry, drawn)
    assert 0 <= wait <= unjittered <= rule.max_delay_us
    assert wait >= int(unjittered * (1 - rule.jitter)) - 1


@given(RULES, RETRIES, DRAWN)
def test_waits_do_not_become_shorter_from_retry_to_retry(rule, retry, drawn):
    assert backoff_us(rule, retry, drawn) <= backoff_us(rule, retry + 1, drawn)


@pytest.mark.parametrize(
    ("retry_on", "never_on", "classes", "expected"),
    [
        (("a", "b"), (), ("a",), True),
        (("a", "b"), (), ("c", "b"), True),
        (("a", "b"), (), ("c",), False),
        (("a",), ("a",), ("a",), False),
        (("a",), ("b",), ("a", "b"), False),
        (("b",), ("a",), ("a", "b"), False),
        ((), (), ("a",), False),
        (("a",), (), (), False),
    ],
)
def test_failure_is_retried_if_named_and_not_excluded(retry_on, never_on, classes, expected):
    rule = RetryRule(retry_on=retry_on, never_on=never_on)
    assert is_retryable(rule, classes) == expected
