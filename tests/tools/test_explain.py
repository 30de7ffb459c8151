"""`explain` says why a task is not running, as far as a journal can know."""

import json

import pytest

from omniq.core import events as ev
from omniq.core.retry import RetryRule
from tests.tools.journals import CLIENT, NAMES, SECOND, START, STORY, A, B, C, D, drop, rewrite

NOTHING = b"\x92\x90\x80"
MINUTE = 60 * SECOND
ERROR = ev.ErrorRecord("ValueError", "bad header")


def enqueued(task_id, **rules):
    return ev.TaskEnqueued(task_id, "app:f", "images", NOTHING, **rules)


def joined(worker, queues=(), concurrency=1):
    return ev.WorkerJoined(worker, "host", 11, "boot", 30 * SECOND, queues, concurrency)


@pytest.fixture
def explained(tmp_path, backend, run):
    """Return a function that explains a task some seconds after the start of a story."""

    def explained(*story, after=10, task=A, people=False):
        path = tmp_path / NAMES[backend]
        rewrite(path, [(second, CLIENT, events) for second, *events in story])
        at = f"2026-05-28T20:{26 + (40 + after) // 60}:{(40 + after) % 60:02}Z"
        result = run("explain", path, task, "--at", at, *([] if people else ["--json"]))
        assert (result.status, result.err) == (0, "")
        if people:
            return result.out.splitlines()
        return {reason["code"]: reason for reason in json.loads(result.out)["reasons"]}

    return explained


def test_task_that_is_due_later_says_when(explained):
    reasons = explained((0, enqueued(A, due_at=START + 40 * SECOND)), (1, joined("w1")))
    assert next(iter(reasons)) == "due_later"
    assert reasons["due_later"]["at"] == "2026-05-28T20:27:20.000000Z"
    assert reasons["due_later"]["text"] == (
        "It is not due before 2026-05-28 20:27:20.000000, in 30.0 s."
    )


def test_retry_that_waits_says_until_when_and_why(explained):
    reasons = explained(
        (0, enqueued(A), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskRetried(A, 1, "w1", ERROR, START + MINUTE)),
    )
    assert next(iter(reasons)) == "retry_later"
    assert reasons["retry_later"]["text"] == (
        "Attempt 1 of at most 4 failed at 2026-05-28 20:26:42.000000 (ValueError: bad header); "
        "the retry waits until 2026-05-28 20:27:40.000000, in 50.0 s."
    )


def test_paused_queue_says_since_when_and_by_whom(explained):
    reasons = explained(
        (0, enqueued(A)),
        (1, ev.QueuePaused("images"), ev.QueuePaused("other")),
        (2, ev.QueueResumed("images")),
        (3, ev.QueuePaused("images")),
    )
    assert next(iter(reasons)) == "queue_paused"
    assert (reasons["queue_paused"]["seq"], reasons["queue_paused"]["at"]) == (
        5,
        "2026-05-28T20:26:43.000000Z",
    )
    assert f"by {CLIENT}" in reasons["queue_paused"]["text"]


def test_other_paused_queue_is_no_reason(explained):
    assert "queue_paused" not in explained((0, enqueued(A)), (1, ev.QueuePaused("other")))


def test_queue_that_nobody_serves_is_said_with_what_there_is(explained):
    reasons = explained(
        (0, enqueued(A)),
        (1, joined("w1", ("mail", "default")), joined("w2", ("mail",)), joined("w3")),
        (2, ev.WorkerLeft("w3")),
    )
    assert reasons["no_worker"]["text"] == (
        "No worker that the journal knows serves the queue 'images': w1 serves 'mail', 'default'; "
        "w2 serves 'mail'."
    )
    assert "function_unknown" not in reasons


def test_no_worker_at_all_is_said(explained):
    reasons = explained((0, enqueued(A)))
    assert list(reasons) == ["no_worker", "due"]
    assert reasons["no_worker"]["text"].endswith("serves the queue 'images'.")


def test_workers_that_are_busy_are_named(explained):
    reasons = explained(
        (0, enqueued(B), enqueued(C), enqueued(A)),
        (1, joined("w1", concurrency=2), joined("w2", ("mail",))),
        (2, ev.TaskStarted(B, 1, "w1"), ev.TaskStarted(C, 1, "w1")),
    )
    assert reasons["workers_busy"]["text"] == (
        "Workers that serve the queue 'images' are all busy: w1 (process 11 on host) runs 2 of 2."
    )
    assert "worker_silent" not in reasons


def test_busy_worker_whose_lease_is_over_is_said(explained):
    reasons = explained(
        (0, enqueued(B), enqueued(A), joined("w1")), (1, ev.TaskStarted(B, 1, "w1")), after=50
    )
    assert reasons["worker_silent"]["at"] == "2026-05-28T20:27:10.000000Z"


def test_worker_with_a_free_place_is_named_and_its_life_is_not_promised(explained):
    reasons = explained((0, enqueued(A), joined("w1")), after=50)
    assert "if they live: w1 (process 11 on host) runs 0 of 1" in reasons["workers"]["text"]
    assert "worker_silent" not in reasons, "an idle worker writes nothing"


@pytest.mark.parametrize(
    ("others", "ahead"),
    [
        ([], None),
        ([(B, {})], 1),
        ([(B, {}), (C, {})], 2),
        ([(B, {"priority": -1})], None),
        ([(B, {"due_at": START + MINUTE})], None),
        ([(B, {"due_at": START + 5 * SECOND})], None),
    ],
)
def test_tasks_before_it_in_line_are_counted(explained, others, ahead):
    events = [enqueued(task_id, **rules) for task_id, rules in others]
    reasons = explained((0, *events, enqueued(A), joined("w1")))
    text = None if ahead is None else "1 other task" if ahead == 1 else f"{ahead} other tasks"
    found = reasons.get("behind_others", {"text": None})["text"]
    assert found == (None if text is None else f"Before it in line: {text} of its queue.")


def test_tasks_of_other_queues_and_later_ones_with_priority_count_as_they_run(explained):
    reasons = explained(
        (0, ev.TaskEnqueued(C, "app:f", "mail", NOTHING), enqueued(A), joined("w1")),
        (1, enqueued(B, priority=1)),
    )
    assert reasons["behind_others"]["text"] == "Before it in line: 1 other task of its queue."


def test_function_that_no_worker_has_shown_to_have_cannot_be_known(explained):
    reasons = explained((0, enqueued(A), joined("w1")))
    assert list(reasons) == ["workers", "due", "function_unknown"]
    assert "a journal cannot tell" in reasons["function_unknown"]["text"]


def test_worker_that_ran_such_a_task_before_is_named(explained):
    reasons = explained(
        (0, enqueued(B), joined("w1"), joined("w2")),
        (1, ev.TaskStarted(B, 1, "w2")),
        (2, ev.TaskSucceeded(B, 1, "w2", b"\xc0"), enqueued(A)),
    )
    assert reasons["function_known"]["text"] == ("Such tasks (app:f) were started before by w2.")


def test_running_task_says_since_when_where_and_until_when(explained):
    reasons = explained(
        (0, enqueued(A, timeout_us=MINUTE), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskProgressed(A, 1, "w1", 0.5, "half")),
        (3, ev.WorkerRenewed("w1", START + 33 * SECOND)),
    )
    assert [reason["text"] for reason in reasons.values()] == [
        (
            "It runs since 2026-05-28 20:26:41.000000 (9.0 s) on worker w1 (process 11 on host): "
            "attempt 1 of at most 4."
        ),
        "It last said how far it is: 50%, half.",
        "Its timeout ends at 2026-05-28 20:27:41.000000, in 51.0 s.",
        (
            "The lease of its worker ends at 2026-05-28 20:27:13.000000, in 23.0 s, and is renewed "
            "before that as long as the worker lives."
        ),
    ]
    assert reasons["lease_valid"]["at"] == "2026-05-28T20:27:13.000000Z"


def test_running_task_whose_lease_is_over_says_what_happens_then(explained):
    story = [(0, enqueued(A, timeout_us=SECOND), joined("w1")), (1, ev.TaskStarted(A, 1, "w1"))]
    reasons = explained(*story, after=50)
    assert list(reasons) == ["running", "timeout", "lease_over", "no_other_worker"]
    assert "ended at 2026-05-28 20:27:10.000000, 20.0 s ago" in reasons["lease_over"]["text"]
    assert "Its timeout ended at" in reasons["timeout"]["text"]


def test_other_workers_may_take_what_a_silent_one_holds(explained):
    reasons = explained(
        (0, enqueued(A), joined("w1"), joined("w2")), (1, ev.TaskStarted(A, 1, "w1")), after=50
    )
    assert list(reasons) == ["running", "lease_over"]


def test_wish_to_cancel_that_is_not_answered_is_said(explained):
    reasons = explained(
        (0, enqueued(A), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskCancelRequested(A, "why not")),
    )
    assert (reasons["cancel_requested"]["seq"], reasons["cancel_requested"]["at"]) == (
        4,
        "2026-05-28T20:26:42.000000Z",
    )


def test_worker_that_never_joined_is_said(explained):
    assert "worker_unknown" in explained((0, enqueued(A)), (1, ev.TaskStarted(A, 1, "w9")))


def test_task_that_succeeded_says_when_and_until_when_its_result_is_kept(explained):
    story = [
        (0, enqueued(A, result_ttl_us=MINUTE), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (3, ev.TaskSucceeded(A, 1, "w1", b"\xc0")),
    ]
    reasons = explained(*story)
    assert reasons["succeeded"]["text"] == (
        "Attempt 1 succeeded at 2026-05-28 20:26:43.000000 on worker w1 after 2.0 s."
    )
    assert "is kept until 2026-05-28 20:27:43.000000" in reasons["kept_until"]["text"]


def test_task_that_failed_says_why_and_whether_it_could_have_been_retried(explained):
    reasons = explained(
        (0, enqueued(A), enqueued(B, retry=RetryRule(0)), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1"), ev.TaskStarted(B, 1, "w1")),
        (2, ev.TaskFailed(A, 1, "w1", ERROR), ev.TaskFailed(B, 1, "w1", ERROR)),
    )
    assert reasons["failed"]["text"] == (
        "It failed for good at 2026-05-28 20:26:42.000000, at attempt 1 of at most 4: "
        "ValueError: bad header."
    )
    assert "not_retried" in reasons


def test_last_attempt_that_failed_needs_no_excuse(explained):
    reasons = explained(
        (0, enqueued(A, retry=RetryRule(0)), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskFailed(A, 1, "w1", ERROR)),
    )
    assert list(reasons) == ["failed"]


def test_cancelled_task_says_by_whom_and_why(explained):
    reasons = explained((0, enqueued(A)), (1, ev.TaskCancelled(A, "not needed")))
    assert reasons["cancelled"]["text"] == (
        f"It was cancelled at 2026-05-28 20:26:41.000000 by {CLIENT} (sequence number 2): "
        "not needed."
    )


def test_finished_run_of_a_series_names_the_one_that_follows(explained):
    reasons = explained(
        (0, enqueued(A, interval_us=SECOND, series_id=A), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskSucceeded(A, 1, "w1", b"\xc0"), enqueued(B, interval_us=SECOND, series_id=A)),
    )
    assert reasons["series"]["text"] == f"Its series goes on with task {B}, which is PENDING."


def test_expired_task_is_known_from_its_events(explained):
    story = [
        (0, enqueued(A, result_ttl_us=SECOND), joined("w1")),
        (1, ev.TaskStarted(A, 1, "w1")),
        (2, ev.TaskSucceeded(A, 1, "w1", b"\xc0")),
        (9, ev.ResultExpired((A,))),
    ]
    reasons = explained(*story)
    assert (reasons["expired"]["seq"], list(reasons)) == (5, ["expired"])
    assert "It had ended as SUCCESS at 2026-05-28 20:26:42" in reasons["expired"]["text"]


def test_people_get_one_sentence_a_line(explained):
    lines = explained((0, enqueued(A)), people=True)
    assert lines[0] == f"task {A} (app:f, queue images): PENDING"
    assert all(line.endswith(".") for line in lines[1:])


def test_task_that_never_was_there_is_an_error(journal, run):
    result = run("explain", journal, "no-such-id")
    assert (result.status, result.out) == (2, "")
    assert "no task 'no-such-id' was ever enqueued" in result.err
    assert "the last of which is 14" in result.err


def test_task_whose_beginning_was_dropped_may_have_been_there(tmp_path, backend, run):
    import asyncio

    path = tmp_path / NAMES[backend]
    rewrite(path, STORY, **({"segment_bytes": 1} if backend == "file" else {}))
    asyncio.run(drop(path, 3, (7, 9)))
    assert "those up to 3 were dropped" in run("explain", path, "no-such-id").err
    assert run("explain", path, D).status == 0


def test_a_point_makes_it_the_time_of_that_event(journal, run):
    report = json.loads(run("explain", journal, A, "--at", "7", "--json").out)
    assert (report["now"], report["status"]) == ("2026-05-28T20:26:43.000000Z", "RETRYING")
    assert run("explain", journal, A, "--at", "15").status == 2
    assert run("explain", journal, C, "--at", "11").status == 2  # it was enqueued after that
