"""The life of a task: every state with every event."""

from itertools import product

import msgspec
import pytest

from omniq.core import events as ev
from omniq.core.evolve import evolve
from omniq.core.transitions import INITIAL, TERMINAL, TRANSITIONS, TaskStatus
from omniq.errors import IllegalEvent
from tests.core.language import BOOM, Life, in_state, joined, lines, members, picture, task

# Written out once more, so that a slip in the table does not pass as its own proof.
ALLOWED = {
    ("PENDING", "task.started"): "RUNNING",
    ("PENDING", "task.cancelled"): "CANCELLED",
    ("RETRYING", "task.started"): "RUNNING",
    ("RETRYING", "task.cancelled"): "CANCELLED",
    ("RUNNING", "task.succeeded"): "SUCCESS",
    ("RUNNING", "task.retried"): "RETRYING",
    ("RUNNING", "task.failed"): "FAILED",
    ("RUNNING", "task.cancelled"): "CANCELLED",
    ("RUNNING", "task.cancel_requested"): "RUNNING",
    ("RUNNING", "task.released"): "PENDING",
    ("RUNNING", "task.progressed"): "RUNNING",
    ("SUCCESS", "task.requeued"): "PENDING",
    ("FAILED", "task.requeued"): "PENDING",
    ("CANCELLED", "task.requeued"): "PENDING",
}
EVENTS = {
    ev.kind_of(event): event
    for event in (
        task("t"),
        ev.TaskStarted("t", 1, "w"),
        ev.TaskSucceeded("t", 1, "w", b"r"),
        ev.TaskRetried("t", 1, "w", BOOM, 0),
        ev.TaskFailed("t", 1, "w", BOOM),
        ev.TaskCancelled("t", "", 1, "w"),
        ev.TaskCancelRequested("t"),
        ev.TaskReleased("t", 1, "w"),
        ev.TaskRequeued("t"),
        ev.TaskLate("t", 1, "w", "task.succeeded"),
        ev.TaskProgressed("t", 1, "w", 0.5),
    )
}
MOVES = [kind for kind in EVENTS if kind != "task.late"]
ILLEGAL = [pair for pair in product(TaskStatus, MOVES) if pair not in ALLOWED]

each_state = pytest.mark.parametrize("status", TaskStatus)
each_move = pytest.mark.parametrize("kind", MOVES)


def refused(life, event):
    """Let an event happen that is not allowed, and check that only its number was used."""
    before, line_before = picture(life.state), lines(life.state)
    with pytest.raises(IllegalEvent) as caught:
        life.state.apply_events((event,))
    life.state.seq -= 1
    assert picture(life.state) == before
    assert lines(life.state) == line_before
    return caught.value


# In a life in which "abct" wait, and "w" runs "def": several events of a kind, of which the last
# cannot follow.
ALIKE = [
    [task("x"), task("y", interval_us=5, series_id="y"), task("z", due_at=99), task("t")],
    [ev.TaskStarted(name, 1, worker) for name, worker in ("av", "bw", "cw", "dw")],
    [ev.TaskSucceeded(name, 1, "w", b"r") for name in "defa"],
    [ev.TaskCancelled(name) for name in "abd"],
]


@pytest.mark.parametrize("is_tried", [False, True], ids=["for good", "tried"])
@pytest.mark.parametrize("events", ALIKE, ids=lambda events: ev.kind_of(events[0]))
def test_many_events_are_taken_in_as_one_by_one_up_to_one_that_cannot_follow(events, is_tried):
    states = []
    for together in (True, False):
        life = Life(joined("v"), joined("w"), task("t", priority=1))
        life.enqueue(*(task(name, queue=name, result_ttl_us=9) for name in "abef"), at=5)
        life.enqueue(*(task(name, interval_us=5, series_id=name) for name in "cd"), at=6)
        life.happen(*(ev.TaskStarted(name, 1, "w") for name in "de"))
        life.run("f")
        before, line_before = picture(life.state), lines(life.state)
        if is_tried:
            life.state.begin(9)
        with pytest.raises(IllegalEvent) as caught:
            for some in [events] if together else [[event] for event in events]:
                life.state.apply_events(some)
        assert life.state.seq == before["state"].seq + len(events)
        assert caught.value.task_id == events[-1].task_id
        if is_tried:
            life.state.rollback()
            assert (picture(life.state), lines(life.state)) == (before, line_before)
        states.append(life.state)
    assert picture(states[0]) == picture(states[1])
    assert lines(states[0]) == lines(states[1])
    assert is_tried or picture(states[0]) != before


def test_the_table_is_the_documented_one():
    table = {
        (str(status), kind.__struct_config__.tag): str(following)
        for status, moves in TRANSITIONS.items()
        for kind, following in moves.items()
    }
    assert table == ALLOWED
    assert INITIAL == "PENDING"
    assert set(TERMINAL) == {"SUCCESS", "FAILED", "CANCELLED"}


def test_every_state_and_every_event_about_a_task_is_tried_here():
    assert set(TRANSITIONS) == set(TaskStatus)
    assert set(map(type, EVENTS.values())) == set(members(ev.TaskEvent))


@each_state
def test_every_state_is_reached_as_said(status):
    assert in_state(status).status("t") == status


@pytest.mark.parametrize(("status", "kind"), ALLOWED)
def test_allowed_event_leads_to_the_state_of_the_table(status, kind):
    life, event = in_state(status), EVENTS[kind]
    if kind == "task.started":
        event = ev.TaskStarted("t", life["t"].attempt + 1, "w")
    assert evolve(life["t"], event, life.now).status == ALLOWED[status, kind]
    life.happen(event)
    assert life.status("t") == ALLOWED[status, kind]
    assert life.state.counts_by_status()[life["t"].status] == 1
    assert sum(life.state.counts_by_status().values()) == 1


@pytest.mark.parametrize(("status", "kind"), ILLEGAL)
def test_any_other_event_is_illegal_and_changes_nothing(status, kind):
    life = in_state(status)
    record = life["t"]
    with pytest.raises(IllegalEvent):
        evolve(record, EVENTS[kind], life.now)
    error = refused(life, EVENTS[kind])
    assert (error.task_id, error.kind, error.state) == ("t", kind, status)
    assert life["t"] is record


@pytest.mark.parametrize("status", ["PENDING", "RETRYING"])
@pytest.mark.parametrize("more", [-1, 0, 2])
def test_attempts_are_counted_one_by_one(status, more):
    life = in_state(TaskStatus(status))
    error = refused(life, ev.TaskStarted("t", life["t"].attempt + more, "w"))
    assert f"attempt {life['t'].attempt}" in error.state


@each_move
def test_unknown_task_can_only_be_enqueued(kind):
    life = Life(joined("w"))
    if kind == "task.enqueued":
        life.happen(EVENTS[kind])
        assert life.status("t") == "PENDING"
    else:
        assert refused(life, EVENTS[kind]).state == "unknown"


@each_state
def test_late_outcome_is_recorded_in_any_state_and_changes_nothing(status):
    life = in_state(status)
    before, seq = picture(life.state), life.state.seq
    life.happen(EVENTS["task.late"])
    life.state.seq, life.state.at = seq, before["state"].at
    assert picture(life.state) == before
    assert evolve(life["t"], EVENTS["task.late"], 9) is life["t"]


def test_late_outcome_of_a_forgotten_task_is_no_error():
    life = Life(EVENTS["task.late"])
    assert life.state.tasks == {}


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_terminal_state_is_left_by_a_requeue_only(status):
    assert [kind for kind in MOVES if (status, kind) in ALLOWED] == ["task.requeued"]
    life = in_state(status)
    life.happen(EVENTS["task.requeued"])
    again = life["t"]
    assert (again.attempt, again.error, again.result, again.due_at) == (0, None, None, life.now)
    assert not again.run.worker


@each_state
def test_only_a_finished_task_can_expire(status):
    life = in_state(status)
    gone = ev.ResultExpired(("t",))
    if status in TERMINAL:
        life.happen(gone)
        assert life.state.tasks == {}
        assert sum(life.state.counts_by_status().values()) == 0
    else:
        assert refused(life, gone).state == status


@pytest.mark.parametrize("others", [("unknown",), ("t",), ("running",)])
def test_results_expire_all_or_none(others):
    life = in_state(TaskStatus.SUCCESS)
    life.happen(task("running"))
    life.run("running")
    refused(life, ev.ResultExpired(("t", *others)))


class TestWhatAnEventSays:
    def test_enqueued_task_is_due_at_once_or_at_its_time(self):
        life = Life()
        life.happen(task("now"), task("later", due_at=70), at=5)
        assert [(life[i].created_at, life[i].due_at) for i in ("now", "later")] == [
            (5, 5),
            (5, 70),
        ]

    def test_start_says_who_and_when_and_keeps_the_last_error(self):
        life = in_state(TaskStatus.RETRYING)
        life.happen(ev.TaskStarted("t", 2, "w2"), at=40)
        record = life["t"]
        assert (record.attempt, record.run.worker, record.run.started_at) == (2, "w2", 40)
        assert record.error == BOOM

    def test_success_stores_the_result_and_clears_the_error(self):
        life = in_state(TaskStatus.RETRYING)
        life.run("t")
        life.happen(ev.TaskSucceeded("t", 2, "w", b"r", "cloudpickle"), at=50)
        record = life["t"]
        assert (record.result, record.error, record.run.codec) == (b"r", None, "cloudpickle")
        assert record.run.finished_at == 50

    def test_retry_stores_the_error_and_the_time(self):
        life = in_state(TaskStatus.RUNNING)
        life.happen(ev.TaskRetried("t", 1, "w", BOOM, 77), at=50)
        record = life["t"]
        assert (record.error, record.due_at, record.run.finished_at) == (BOOM, 77, 50)

    def test_failure_stores_the_error(self):
        assert in_state(TaskStatus.FAILED)["t"].error == BOOM

    def test_cancellation_is_an_error_that_is_not_retried(self):
        life = in_state(TaskStatus.RUNNING)
        life.happen(ev.TaskCancelled("t", "enough", 1, "w"))
        assert life["t"].error == ev.ErrorRecord("TaskCancelled", "enough", retryable=False)

    def test_released_attempt_does_not_count(self):
        life = in_state(TaskStatus.RETRYING)
        life.run("t")
        life.happen(ev.TaskReleased("t", 2, "w", "", 99), at=50)
        record = life["t"]
        assert (record.attempt, record.due_at, record.run.worker) == (1, 99, "")

    def test_released_task_without_a_time_is_due_at_once(self):
        life = in_state(TaskStatus.RUNNING)
        life.happen(ev.TaskReleased("t", 1, "w"), at=50)
        assert life["t"].due_at == 50

    def test_progress_changes_the_progress_only(self):
        life = in_state(TaskStatus.RUNNING)
        started_at = life["t"].run.started_at
        life.happen(ev.TaskProgressed("t", 1, "w", 0.25, "a quarter"))
        run = life["t"].run
        assert (run.fraction, run.message, run.started_at) == (0.25, "a quarter", started_at)

    def test_wish_to_cancel_is_kept_until_the_attempt_ends(self):
        life = in_state(TaskStatus.RUNNING)
        life.happen(ev.TaskCancelRequested("t", "enough"))
        assert life["t"].run.cancel_requested
        life.happen(ev.TaskReleased("t", 1, "w"))
        assert not life["t"].run.cancel_requested


@pytest.mark.parametrize(("attempt", "worker"), [(1, "x"), (2, "w"), (0, "")])
@pytest.mark.parametrize(
    "kind",
    [
        "task.succeeded",
        "task.retried",
        "task.failed",
        "task.cancelled",
        "task.released",
        "task.progressed",
    ],
)
def test_event_of_another_claim_than_the_one_that_runs_is_illegal(kind, attempt, worker):
    life = in_state(TaskStatus.RUNNING)
    refused(life, msgspec.structs.replace(EVENTS[kind], attempt=attempt, worker=worker))
