"""What follows from each command, in each situation that its rule tells apart."""

import pytest

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.decide import decide
from omniq.core.ids import next_run_id
from omniq.core.retry import RetryRule
from omniq.core.transitions import TaskStatus
from omniq.errors import TaskNotFound
from tests.core.language import (
    ANY,
    BOOM,
    Life,
    ids,
    in_state,
    joined,
    line,
    lines,
    members,
    picture,
    task,
)

TESTED = set()
LATE = {
    cmd.Succeed: "task.succeeded",
    cmd.Fail: "task.failed",
    cmd.Release: "task.released",
    cmd.AcknowledgeCancel: "task.cancelled",
}
FINISHED = [TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED]
NOT_RUNNING = [status for status in TaskStatus if status != "RUNNING"]


def about(*commands):
    """Say which commands the tests of a class are about."""
    TESTED.update(commands)
    return lambda tests: tests


def outcome(kind, task_id="t", attempt=1, worker="w"):
    if kind is cmd.Succeed:
        return cmd.Succeed(task_id, attempt, worker, b"r")
    if kind is cmd.Fail:
        return cmd.Fail(task_id, attempt, worker, BOOM)
    return kind(task_id, attempt, worker)


def nothing(life, command, at=None):
    """Check that a command has no events and changes nothing."""
    before, line_before = picture(life.state), lines(life.state)
    assert life.do(command, at) == []
    assert picture(life.state) == before
    assert lines(life.state) == line_before


def running(**rules):
    return in_state(TaskStatus.RUNNING, **rules)


def wanted_to_stop(**rules):
    life = running(**rules)
    life.cancel("t")
    return life


def tries(**rule):
    """Return rules of a task with this retry rule, by default without a wait."""
    return {"retry": RetryRule(**{"base_delay_us": 0, **rule})}


@about(cmd.Enqueue)
class TestEnqueue:
    def test_all_tasks_are_accepted_in_their_order(self):
        life = Life(joined("w"))
        tasks = (task("a"), task("b", queue="other"), task("c"))
        assert life.enqueue(*tasks) == list(tasks)
        assert list(life.state.tasks) == ["a", "b", "c"]

    def test_no_tasks_are_no_events(self):
        nothing(Life(), cmd.Enqueue(()))

    def test_equal_rules_are_stored_once(self):
        life = Life(task("a"), task("b", retry=RetryRule()))
        assert life["a"].spec is life["b"].spec


@about(cmd.Claim)
class TestClaim:
    def test_tasks_are_started_with_their_next_attempt(self):
        life = Life(joined("w"), task("new"), task("old"))
        life.run("old")
        life.happen(ev.TaskRetried("old", 1, "w", BOOM, 0))
        assert life.claim(limit=9) == [
            ev.TaskStarted("new", 1, "w"),
            ev.TaskStarted("old", 2, "w"),
        ]
        assert life.claim(limit=9) == []

    def test_claim_of_a_worker_that_is_lost_or_unknown_takes_nothing(self):
        life = Life(joined("w"), task("t"))
        life.do(cmd.DeclareLost("w", "gone"))
        nothing(life, cmd.Claim("w", (), frozenset("f"), 1))
        life.happen(joined("v"))
        assert life.claimed(worker="v") == ["t"]

    def test_first_in_is_first_out(self):
        life = Life(joined("w"), *map(task, "abcdef"))
        assert life.claimed(limit=4) == ["a", "b", "c", "d"]
        assert life.claimed(limit=4) == ["e", "f"]

    def test_limit_is_kept(self):
        life = Life(joined("w"), *map(task, "abc"))
        nothing(life, cmd.Claim("w", (), frozenset("f"), 0))
        assert [life.claimed(limit=limit) for limit in (1, 2)] == [["a"], ["b", "c"]]

    def test_higher_priority_goes_first_and_the_first_in_within_it(self):
        priorities = {"a": 0, "b": 5, "c": -1, "d": 5, "e": 0, "f": 9}
        life = Life(joined("w"), *[task(i, priority=p) for i, p in priorities.items()])
        assert life.claimed(limit=9) == ["f", "b", "d", "a", "e", "c"]

    def test_named_queues_are_served_in_their_order_before_any_priority(self):
        life = Life(joined("w"))
        life.happen(task("a", queue="low", priority=9), task("b", queue="high"), task("c"))
        nothing(life, cmd.Claim("w", ("nowhere",), frozenset("f"), 1))
        assert life.claimed(queues=("high", "low"), limit=9) == ["b", "a"]

    def test_without_names_all_queues_get_a_share(self):
        life = Life(joined("w"))
        life.happen(*[task(f"a{n}", queue="a") for n in range(9)], task("b0", queue="b"))
        life.happen(*[task(f"c{n}", queue="c") for n in range(9)])
        taken = life.claimed(limit=7)
        assert sorted(taken) == ["a0", "a1", "a2", "b0", "c0", "c1", "c2"]
        assert [i for i in taken if i[0] == "a"] == ["a0", "a1", "a2"]

    def test_without_names_the_queues_take_turns_from_claim_to_claim(self):
        life = Life(joined("w"), *[task(f"{q}{n}", queue=q) for q in "ab" for n in range(3)])
        turns = [life.claimed()[0] for _ in range(6)]
        assert turns == ["a0", "b0", "a1", "b1", "a2", "b2"]

    def test_task_is_not_claimed_before_it_is_due(self):
        life = Life(joined("w"), task("t", due_at=100))
        assert life.claimed(at=99) == []
        assert life.state.waiting.next_due() == 100
        assert life.claimed(at=100) == ["t"]
        assert life.state.waiting.next_due() is None

    def test_tasks_that_become_due_are_claimed_in_the_order_of_their_times(self):
        life = Life(joined("w"), task("c", due_at=30), task("a", due_at=10), task("b", due_at=30))
        assert life.claimed(limit=9, at=30) == ["a", "c", "b"]

    def test_who_was_ready_first_goes_first_whoever_was_enqueued_first(self):
        life = Life(joined("w"), task("x", due_at=10))
        life.enqueue(task("y"), at=20)
        assert life.claimed(limit=9, at=20) == ["x", "y"]

    def test_task_of_a_paused_queue_is_not_claimed(self):
        life = Life(joined("w"), task("a", queue="a"), task("b", queue="b"))
        life.do(cmd.PauseQueue("a"))
        assert life.claimed(queues=("a", "b"), limit=9) == ["b"]
        nothing(life, cmd.Claim("w", (), frozenset("f"), 9))
        life.do(cmd.ResumeQueue("a"))
        assert life.claimed(limit=9) == ["a"]

    def test_foreign_names_are_left_alone_and_hide_nobody(self):
        life = Life(joined("w"), task("a", name="g"), task("b"), task("c", name="g"), task("d"))
        assert life.claimed(names="f", limit=9) == ["b", "d"]
        assert list(life.state.waiting.set_aside()) == ["g"]
        assert [life.status(i) for i in "ac"] == ["PENDING", "PENDING"]

    def test_foreign_names_come_back_when_the_function_is_there_in_their_order(self):
        life = Life(joined("w"), task("a", name="g"), task("b", name="g"), task("c"), task("d"))
        assert life.claimed(names="f", limit=1) == ["c"]
        nothing(life, cmd.Claim("v", (), frozenset("f"), 9))
        life.state.waiting.recall(("g", "f", "h", "unheard"))
        assert list(life.state.waiting.set_aside()) == []
        assert life.claimed(limit=9) == ["a", "b", "d"]

    def test_foreign_task_that_another_process_started_is_not_recalled(self):
        life = Life(joined("w"), task("a", name="g"), task("b", name="g"))
        life.claim(names="f")
        life.run("a", worker="elsewhere")
        life.state.waiting.recall(("g",))
        assert life.claimed(limit=9) == ["b"]

    def test_name_without_a_task_set_aside_is_not_listed(self):
        life = Life(joined("w"), task("a", name="g"))
        life.claim(names="f")
        life.cancel("a")
        assert list(life.state.waiting.set_aside()) == []

    def test_payload_that_may_not_be_read_is_left_alone(self):
        life = Life(joined("w"), task("a", codec="cloudpickle"), task("b"))
        assert life.claimed(limit=9) == ["b"]
        life.state.waiting.recall("f")
        assert life.claimed(limit=9, codecs=frozenset({"cloudpickle"})) == ["a"]

    def test_task_that_another_process_started_is_not_claimed(self):
        life = Life(joined("w"), *map(task, "abc"))
        life.run("b", worker="elsewhere")
        assert life.claimed(limit=9) == ["a", "c"]


class TestOneEntryForOneTask:
    """A task that leaves the line and comes back is in it once, at the end."""

    def test_after_a_cancel_and_a_requeue(self):
        life = Life(joined("w"), *map(task, "abc"))
        life.cancel("b")
        life.do(cmd.RequeueTask("b"))
        assert life.claimed(limit=9) == ["a", "c", "b"]

    def test_after_another_process_gave_it_back(self):
        life = Life(joined("w"), *map(task, "abc"))
        life.run("b", worker="elsewhere")
        life.happen(ev.TaskReleased("b", 1, "elsewhere"))
        assert life.claimed(limit=9) == ["a", "c", "b"]

    def test_after_another_process_failed(self):
        life = Life(joined("w"), *map(task, "abc"))
        life.run("b", worker="elsewhere")
        life.happen(ev.TaskRetried("b", 1, "elsewhere", BOOM, 0))
        assert life.claimed(limit=9) == ["a", "c", "b"]

    def test_after_it_was_set_aside_and_given_back(self):
        life = Life(joined("w"), task("a", name="g"), task("b"))
        life.claim(names="h")
        life.run("a", worker="elsewhere")
        life.happen(ev.TaskReleased("a", 1, "elsewhere"))
        life.state.waiting.recall(("f", "g"))
        assert life.claimed(limit=9) == ["b", "a"]

    def test_with_a_time_that_stays_the_same(self):
        life = Life(joined("w"), task("a", due_at=50), task("b", due_at=50))
        life.run("a", worker="elsewhere")
        life.happen(ev.TaskReleased("a", 1, "elsewhere", "", 50))
        assert life.claimed(limit=9, at=50) == ["b", "a"]


class TestRollback:
    """What was tried and could not be written never happened."""

    def life(self):
        return Life(joined("w"), *map(task, "abcd"), task("later", due_at=50))

    @pytest.mark.parametrize(
        "commands",
        [
            [cmd.Claim("w", (), frozenset("f"), 2)],
            [cmd.Claim("w", (), frozenset("f"), 1)] * 3,
            [cmd.Claim("w", (), frozenset("f"), 9)],
            [cmd.CancelTask("b")],
            [cmd.CancelTask("c"), cmd.RequeueTask("c"), cmd.CancelTask("a")],
            [cmd.CancelTask("a"), cmd.Claim("w", (), frozenset("f"), 1), cmd.CancelTask("d")],
            [cmd.CancelTask("later"), cmd.RequeueTask("later")],
            [cmd.Enqueue((task("e"), task("f", queue="new", priority=3)))],
            [cmd.Enqueue((task("e"),)), cmd.Claim("w", (), frozenset("f"), 9), cmd.Leave("w")],
            [cmd.Claim("w", (), frozenset("f"), 9), cmd.DeclareLost("w", "gone")],
            [cmd.Claim("w", (), frozenset("f"), 2), cmd.Succeed("a", 1, "w", b"")],
            [cmd.PauseQueue("q"), cmd.Join(joined("v"))],
        ],
        ids=lambda commands: "+".join(type(command).__name__ for command in commands),
    )
    @pytest.mark.parametrize("at", [2, 50, 60])
    def test_state_and_line_are_as_before(self, commands, at):
        life = self.life()
        before = picture(life.state)
        assert life.try_in_vain(*commands, at=at)
        assert picture(life.state) == before
        for time in (at, 10**12):
            assert lines(life.state, time) == lines(self.life().state, time)
        assert picture(life.state) == picture(life.refolded())

    def test_commands_that_are_tried_again_have_the_same_events(self):
        life = self.life()
        commands = [
            cmd.Enqueue((task("e"), task("g", due_at=60))),
            cmd.CancelTask("b"),
            cmd.Claim("w", (), frozenset("f"), 3),
            cmd.Release("a", 1, "w"),
        ]
        tried = life.try_in_vain(*commands, at=50)
        again = [event for command in commands for event in life.do(command, at=50)]
        assert again == tried
        assert life.claimed(limit=9, at=60) == ["later", "e", "a", "g"]

    def test_tasks_that_became_due_in_the_trial_keep_their_order(self):
        life = Life(joined("w"), *[task(i, due_at=10) for i in "abc"])
        life.try_in_vain(cmd.Claim("w", (), frozenset("f"), 2), at=10)
        assert life.claimed(limit=9, at=10) == ["a", "b", "c"]

    def test_task_that_became_due_in_the_trial_is_not_early_if_the_clock_is_set_back(self):
        life = Life(joined("w"), *[task(i, due_at=10) for i in "abc"])
        life.try_in_vain(cmd.Claim("w", (), frozenset("f"), 2), at=10)
        assert life.claimed(limit=9, at=9) == []
        assert life.claimed(limit=9, at=10) == ["a", "b", "c"]

    def test_task_is_set_aside_no_more_than_once(self):
        life = Life(joined("w"), task("a", name="g"), task("b"), task("c", name="g"))
        life.try_in_vain(cmd.Claim("w", (), frozenset("f"), 9))
        life.try_in_vain(cmd.CancelTask("a"), cmd.Claim("w", (), frozenset("f"), 9))
        life.state.waiting.recall("g")
        assert sorted(life.claimed(limit=9)) == ["a", "b", "c"]

    def test_task_that_was_never_enqueued_is_not_set_aside(self):
        life = Life(joined("w"))
        life.try_in_vain(cmd.Enqueue((task("a", name="g"),)), cmd.Claim("w", (), frozenset("f"), 9))
        assert list(life.state.waiting.set_aside()) == []

    def test_whose_turn_it_is_stays_the_same(self):
        life = Life(joined("w"), *[task(f"{q}{n}", queue=q) for q in "ab" for n in range(2)])
        life.try_in_vain(cmd.Claim("w", (), frozenset("f"), 1))
        assert [life.claimed()[0] for _ in range(4)] == ["a0", "b0", "a1", "b1"]

    def test_results_that_could_not_be_forgotten_are_forgotten_once(self):
        life = Life(joined("w"), task("a", result_ttl_us=5), task("b", result_ttl_us=5))
        life.run("a", "b")
        life.succeed("a")
        life.try_in_vain(cmd.Succeed("b", 1, "w", b""), at=20)
        life.succeed("b", at=20)
        life.try_in_vain(cmd.ExpireResults(9), at=25)
        life.try_in_vain(cmd.ExpireResults(1), at=25)
        assert life.do(cmd.ExpireResults(9), at=25) == [ev.ResultExpired(("a", "b"))]

    def test_live_run_of_a_series_is_as_before(self):
        life = running(interval_us=5, series_id="t")
        second = ids(life.succeed("t", at=10))[1]
        life.try_in_vain(cmd.CancelTask("t"), cmd.RequeueTask("t"), cmd.RequeueTask(second))
        assert life.state.series == {"t": second}
        life.do(cmd.CancelTask(second))
        life.do(cmd.RequeueTask("t"))
        life.try_in_vain(cmd.CancelTask("t"), cmd.RequeueTask(second))
        assert life.state.series == {"t": "t"}

    def test_series_that_has_ended_is_not_begun_again(self):
        life = running(interval_us=5, series_id="t")
        second = ids(life.succeed("t", at=10))[1]
        life.do(cmd.RequeueTask("t"))
        life.do(cmd.CancelTask(second))
        assert life.state.series == {}
        life.try_in_vain(cmd.CancelTask("t"))
        assert life.state.series == {}


@about(*LATE)
class TestFencing:
    """An outcome counts only while its very attempt holds the task."""

    @pytest.mark.parametrize("kind", LATE)
    @pytest.mark.parametrize(
        "claim", [("t", 1, "v"), ("t", 2, "w"), ("t", 0, "w"), ("unknown", 1, "w")], ids=str
    )
    def test_outcome_of_another_attempt_is_late(self, kind, claim):
        life = running()
        record = life["t"]
        assert life.do(outcome(kind, *claim)) == [ev.TaskLate(*claim, LATE[kind])]
        assert life["t"] is record

    @pytest.mark.parametrize("kind", LATE)
    @pytest.mark.parametrize("status", NOT_RUNNING)
    def test_outcome_for_a_task_that_does_not_run_is_late(self, kind, status):
        life = in_state(status)
        record = life["t"]
        assert life.do(outcome(kind)) == [ev.TaskLate("t", 1, "w", LATE[kind])]
        assert life["t"] is record

    @pytest.mark.parametrize("kind", LATE)
    def test_outcome_of_a_worker_that_was_declared_lost_is_late(self, kind):
        life = running(**tries())
        life.do(cmd.DeclareLost("w", "gone"))
        life.happen(joined("v"))
        assert life.claimed(worker="v") == ["t"]
        assert ids(life.do(outcome(kind))) == ["t"]
        assert life["t"].is_claimed_by("v", 2)

    @pytest.mark.parametrize("kind", LATE)
    def test_outcome_of_a_forgotten_task_is_late(self, kind):
        life = in_state(TaskStatus.SUCCESS)
        life.happen(ev.ResultExpired(("t",)))
        assert life.do(outcome(kind)) == [ev.TaskLate("t", 1, "w", LATE[kind])]
        assert life.state.tasks == {}


@about(cmd.Succeed)
class TestSucceed:
    def test_result_is_stored(self):
        life = running()
        command = cmd.Succeed("t", 1, "w", b"result", "cloudpickle")
        assert life.do(command) == [ev.TaskSucceeded("t", 1, "w", b"result", "cloudpickle")]
        assert life.status("t") == "SUCCESS"

    def test_success_wins_over_a_wish_to_cancel(self):
        life = wanted_to_stop()
        assert life.succeed("t") == [ev.TaskSucceeded("t", 1, "w", b"r")]


@about(cmd.Fail)
class TestFail:
    @pytest.mark.parametrize("max_retries", [0, 1, 3])
    def test_no_more_than_one_and_max_retries_attempts_start(self, max_retries):
        life = Life(joined("w"), task("t", **tries(max_retries=max_retries)))
        attempts = []
        while started := life.claim():
            attempts.append(started[0].attempt)
            failed = life.fail("t")
        assert attempts == list(range(1, max_retries + 2))
        assert failed == [ev.TaskFailed("t", max_retries + 1, "w", BOOM)]

    def test_retry_is_due_after_the_back_off(self):
        life = Life(joined("w"), task("t", **tries(base_delay_us=100, max_delay_us=300)))
        waits = []
        for at in (1000, 2000, 3000):
            life.run("t")
            (retried,) = life.fail("t", at=at)
            assert (retried.attempt, retried.error) == (life["t"].attempt, BOOM)
            waits.append(retried.retry_at - at)
        assert waits == [100, 200, 300]

    def test_drawn_jitter_shortens_the_wait(self):
        life = running(**tries(base_delay_us=100, jitter=0.5))
        assert life.fail("t", at=1000, drawn=1.0)[0].retry_at == 1050

    @pytest.mark.parametrize(
        ("rule", "error", "again"),
        [
            ({}, BOOM, True),
            ({}, ev.ErrorRecord("ValueError", "boom", retryable=False), False),
            ({"retry_on": ("builtins:ValueError",)}, BOOM, True),
            ({"retry_on": ("builtins:OSError",)}, BOOM, False),
            ({"retry_on": ()}, BOOM, False),
            ({"never_on": ("builtins:ValueError",)}, BOOM, False),
            ({"never_on": ("builtins:OSError",)}, BOOM, True),
            ({"never_on": ("builtins:Exception",), "retry_on": ANY}, BOOM, False),
        ],
    )
    def test_rule_and_error_say_whether_it_is_tried_again(self, rule, error, again):
        life = running(**tries(**rule))
        expected = ev.TaskRetried if again else ev.TaskFailed
        assert [type(event) for event in life.fail("t", error=error)] == [expected]

    def test_failure_without_known_classes_is_not_tried_again(self):
        assert running().fail("t", class_names=())[0] == ev.TaskFailed("t", 1, "w", BOOM)

    def test_failure_after_a_wish_to_cancel_is_a_cancellation(self):
        life = wanted_to_stop(**tries())
        assert life.fail("t") == [ev.TaskCancelled("t", "boom", 1, "w")]


@about(cmd.Release)
class TestRelease:
    def test_released_attempt_does_not_count(self):
        life = Life(joined("w"), task("t", **tries(max_retries=0)))
        for _ in range(5):
            assert life.claim() == [ev.TaskStarted("t", 1, "w")]
            life.do(cmd.Release("t", 1, "w", "later"))
        assert life["t"].attempt == 0
        life.claim()
        assert life.fail("t") == [ev.TaskFailed("t", 1, "w", BOOM)]

    def test_released_task_is_due_after_the_delay(self):
        life = running()
        released = life.do(cmd.Release("t", 1, "w", "later", 30), at=100)
        assert released == [ev.TaskReleased("t", 1, "w", "later", 130)]
        assert life.claimed(at=129) == []
        assert life.claimed(at=130) == ["t"]

    def test_release_after_a_wish_to_cancel_is_a_cancellation(self):
        life = wanted_to_stop()
        released = life.do(cmd.Release("t", 1, "w", "stopping"))
        assert released == [ev.TaskCancelled("t", "stopping", 1, "w")]


@about(cmd.AcknowledgeCancel)
class TestAcknowledgeCancel:
    @pytest.mark.parametrize("life", [running, wanted_to_stop])
    def test_attempt_ends_in_cancelled(self, life):
        life = life()
        command = cmd.AcknowledgeCancel("t", 1, "w", "as you wish")
        assert life.do(command) == [ev.TaskCancelled("t", "as you wish", 1, "w")]
        assert life.state.running == {}


@about(cmd.ReportProgress)
class TestReportProgress:
    def test_progress_is_recorded(self):
        life = running()
        command = cmd.ReportProgress("t", 1, "w", 0.5, "half")
        assert life.do(command) == [ev.TaskProgressed("t", 1, "w", 0.5, "half")]

    @pytest.mark.parametrize("status", NOT_RUNNING)
    def test_progress_of_a_task_that_does_not_run_is_dropped(self, status):
        nothing(in_state(status), cmd.ReportProgress("t", 1, "w", 0.5))

    @pytest.mark.parametrize("claim", [("t", 2, "w"), ("t", 1, "v"), ("unknown", 1, "w")])
    def test_progress_of_another_attempt_is_dropped(self, claim):
        nothing(running(), cmd.ReportProgress(*claim, 0.5))


@about(cmd.CancelTask)
class TestCancel:
    def test_unknown_task_is_refused(self):
        life = Life(task("t"))
        before = picture(life.state)
        with pytest.raises(TaskNotFound, match="'other'"):
            decide(life.state, cmd.CancelTask("other"), 9)
        assert picture(life.state) == before

    @pytest.mark.parametrize("status", ["PENDING", "RETRYING"])
    def test_waiting_task_is_cancelled_at_once(self, status):
        life = in_state(status)
        assert life.cancel("t") == [ev.TaskCancelled("t", "enough")]
        assert life.claimed() == []

    def test_running_task_is_asked_to_stop_once(self):
        life = running()
        assert life.cancel("t") == [ev.TaskCancelRequested("t", "enough")]
        assert life.status("t") == "RUNNING"
        nothing(life, cmd.CancelTask("t"))

    @pytest.mark.parametrize("status", FINISHED)
    def test_finished_task_stays_as_it_is(self, status):
        nothing(in_state(status), cmd.CancelTask("t"))

    def test_cancelled_task_does_not_run_when_it_was_to_run_later(self):
        life = Life(joined("w"), task("t", due_at=50))
        life.cancel("t")
        assert life.claimed(at=60) == []


@about(cmd.RequeueTask)
class TestRequeue:
    def test_unknown_task_is_refused(self):
        with pytest.raises(TaskNotFound):
            decide(Life().state, cmd.RequeueTask("t"), 1)

    @pytest.mark.parametrize("status", [s for s in TaskStatus if s not in FINISHED])
    def test_unfinished_task_stays_as_it_is(self, status):
        nothing(in_state(status), cmd.RequeueTask("t"))

    @pytest.mark.parametrize("status", FINISHED)
    def test_finished_task_runs_again_with_its_attempts_counted_anew(self, status):
        life = in_state(status)
        assert life.do(cmd.RequeueTask("t", "again")) == [ev.TaskRequeued("t", "again")]
        assert life.claim() == [ev.TaskStarted("t", 1, "w")]


class TestInterval:
    """The runs of a series follow one another, counted from start to start."""

    def life(self, **rules):
        return Life(joined("w"), task("r", interval_us=100, series_id="r", **rules))

    def start(self, life, at):
        life.now = at - 1
        (started,) = life.claim()
        return started.task_id

    def test_next_run_is_enqueued_with_the_success_and_has_all_rules(self):
        rules = {
            "codec": "cloudpickle",
            "priority": 3,
            "timeout_us": 7,
            "retry": RetryRule(max_retries=9),
            "result_ttl_us": 8,
        }
        life = Life(
            joined("w"),
            task("r", name="g", payload=b"p", interval_us=100, series_id="r", **rules),
        )
        life.claim(at=1000, codecs=frozenset({"cloudpickle"}))
        succeeded, following = life.succeed("r", at=1030)
        assert succeeded == ev.TaskSucceeded("r", 1, "w", b"r")
        assert following == task(
            next_run_id("r", 1030),
            name="g",
            payload=b"p",
            due_at=1100,
            interval_us=100,
            series_id="r",
            **rules,
        )

    @pytest.mark.parametrize(("took", "due_at"), [(0, 1100), (99, 1100), (100, 1100), (170, 1170)])
    def test_next_run_is_due_from_start_to_start_and_never_in_the_past(self, took, due_at):
        life = self.life()
        self.start(life, 1000)
        assert life.succeed("r", at=1000 + took)[1].due_at == due_at

    def test_failed_run_is_followed_too(self):
        life = self.life(**tries(max_retries=0))
        self.start(life, 1000)
        failed, following = life.fail("r", at=1010)
        assert (failed, following.due_at) == (ev.TaskFailed("r", 1, "w", BOOM), 1100)

    def test_run_that_will_be_tried_again_is_not_followed_yet(self):
        life = self.life(**tries())
        self.start(life, 1000)
        assert [type(event) for event in life.fail("r", at=1010)] == [ev.TaskRetried]

    def test_run_whose_worker_died_for_the_last_time_is_followed(self):
        life = self.life(**tries(max_retries=0))
        self.start(life, 1000)
        lost = life.do(cmd.DeclareLost("w", "gone"), at=1010)
        assert [type(event) for event in lost] == [ev.WorkerLost, ev.TaskFailed, ev.TaskEnqueued]

    @pytest.mark.parametrize("kind", LATE)
    def test_run_that_was_asked_to_stop_is_the_last(self, kind):
        life = self.life()
        self.start(life, 1000)
        life.cancel("r")
        assert len(life.do(outcome(kind, "r"))) == 1
        assert life.state.series == {}
        assert life["r"].is_finished

    def test_handle_of_any_run_cancels_the_series(self):
        life = self.life()
        self.start(life, 1000)
        second = life.succeed("r", at=1001)[1].task_id
        assert life.cancel("r") == [ev.TaskCancelled(second, "enough")]
        nothing(life, cmd.CancelTask("r"))
        nothing(life, cmd.CancelTask(second))

    def test_handle_of_any_run_asks_the_running_one_to_stop(self):
        life = self.life()
        self.start(life, 1000)
        second = life.succeed("r", at=1001)[1].task_id
        assert self.start(life, 1100) == second
        assert life.cancel("r") == [ev.TaskCancelRequested(second, "enough")]
        assert life.do(cmd.Succeed(second, 1, "w", b""))[1:] == []

    def test_requeued_old_run_does_not_double_the_series(self):
        life = self.life()
        self.start(life, 1000)
        second = life.succeed("r", at=1001)[1].task_id
        life.do(cmd.RequeueTask("r"))
        assert self.start(life, 1010) == "r"
        assert len(life.succeed("r")) == 1
        assert self.start(life, 1100) == second
        assert len(life.succeed(second)) == 2

    def test_cancel_reaches_a_requeued_old_run_and_the_series(self):
        life = self.life()
        self.start(life, 1000)
        second = life.succeed("r", at=1001)[1].task_id
        life.do(cmd.RequeueTask("r"))
        assert sorted(ids(life.cancel("r"))) == sorted(["r", second])

    def test_requeue_revives_a_series_that_has_ended(self):
        life = self.life()
        life.cancel("r")
        life.do(cmd.RequeueTask("r"))
        self.start(life, 1000)
        assert len(life.succeed("r")) == 2


@about(cmd.Join)
class TestJoin:
    def test_worker_is_known_from_then_on(self):
        life = Life()
        event = joined("w", queues=("a", "b"), concurrency=4)
        assert life.do(cmd.Join(event), at=100) == [event]
        worker = life.state.workers["w"]
        assert (worker.id, worker.host, worker.pid, worker.boot) == ("w", "host", 1, "boot")
        assert (worker.queues, worker.concurrency) == (("a", "b"), 4)
        assert (worker.joined_at, worker.lease_us, worker.lease_until) == (100, 30, 130)

    def test_renewal_moves_the_lease_of_a_worker_that_is_known(self):
        life = Life(joined("w"))
        life.happen(ev.WorkerRenewed("w", 500), ev.WorkerRenewed("unknown", 500))
        assert list(life.state.workers) == ["w"]
        assert life.state.workers["w"].lease_until == 500


@about(cmd.Leave)
class TestLeave:
    def test_worker_that_is_unknown_has_nothing_to_leave(self):
        nothing(Life(joined("w")), cmd.Leave("v"))

    def test_idle_worker_leaves(self):
        life = Life(joined("w"))
        assert life.do(cmd.Leave("w")) == [ev.WorkerLeft("w")]
        assert (life.state.workers, life.state.heard) == ({}, {})

    def test_what_it_holds_is_given_back_and_does_not_count(self):
        life = Life(joined("w"), joined("v"), *map(task, "abc"))
        life.run("a", "b")
        life.run("c", worker="v")
        life.cancel("b")
        assert life.do(cmd.Leave("w"), at=90) == [
            ev.TaskReleased("a", 1, "w", "its worker stopped", 90),
            ev.TaskCancelled("b", "its worker stopped", 1, "w"),
            ev.WorkerLeft("w"),
        ]
        assert life["a"].attempt == 0
        assert list(life.state.running) == ["v"]


@about(cmd.DeclareLost)
class TestDeclareLost:
    def test_worker_that_is_unknown_cannot_be_lost(self):
        nothing(Life(joined("w")), cmd.DeclareLost("v", "gone"))

    def test_tasks_are_tried_again_at_once_or_are_over(self):
        life = Life(joined("w"), joined("v"))
        life.happen(
            task("again", retry=RetryRule(base_delay_us=10**9)),
            task("last", **tries(max_retries=0)),
            task("unwanted"),
            task("elsewhere"),
        )
        life.run("again", "last", "unwanted")
        life.run("elsewhere", worker="v")
        life.cancel("unwanted")
        error = ev.ErrorRecord("WorkerLost", "worker w: its lock is free")
        assert life.do(cmd.DeclareLost("w", "its lock is free"), at=70) == [
            ev.WorkerLost("w", "its lock is free"),
            ev.TaskRetried("again", 1, "w", error, 70),
            ev.TaskFailed("last", 1, "w", error),
            ev.TaskCancelled("unwanted", "worker w: its lock is free", 1, "w"),
        ]
        assert list(life.state.workers) == list(life.state.running) == ["v"]
        assert life.claimed(worker="v", at=70) == ["again"]

    def test_rules_about_exceptions_do_not_keep_a_lost_task_from_its_retry(self):
        life = running(**tries(retry_on=()))
        assert isinstance(life.do(cmd.DeclareLost("w", "gone"))[1], ev.TaskRetried)

    def test_death_counts_as_an_attempt(self):
        life = Life(task("t", **tries(max_retries=2)))
        deaths = 0
        while life.state.waiting.has_ready((), set(), life.now):
            life.happen(joined("w"))
            life.claim()
            life.do(cmd.DeclareLost("w", "gone"))
            deaths += 1
        assert (deaths, life.status("t")) == (3, "FAILED")

    @pytest.mark.parametrize(
        "sign",
        [ev.WorkerRenewed("w", 10**6), joined("w"), ev.TaskStarted("t", 1, "w")],
        ids=ev.kind_of,
    )
    def test_any_sign_of_life_since_voids_the_evidence(self, sign):
        life = Life(joined("w"), task("t"))
        heard = life.state.heard["w"]
        life.happen(sign)
        nothing(life, cmd.DeclareLost("w", "silent", heard))
        assert life.do(cmd.DeclareLost("w", "silent", life.state.heard["w"]))[0] == ev.WorkerLost(
            "w", "silent"
        )

    def test_events_of_others_are_no_sign_of_life(self):
        life = Life(joined("w"))
        heard = life.state.heard["w"]
        life.happen(joined("v"), task("t"), ev.WorkerRenewed("v", 5))
        assert life.do(cmd.DeclareLost("w", "silent", heard)) == [ev.WorkerLost("w", "silent")]

    def test_certain_evidence_needs_no_fence(self):
        life = Life(joined("w"), ev.WorkerRenewed("w", 10**6))
        assert life.do(cmd.DeclareLost("w", "dead")) == [ev.WorkerLost("w", "dead")]


@about(cmd.ExpireResults)
class TestExpireResults:
    def life(self):
        """Four tasks that end at 10; "b", "a" and "c" may go at 15, 20 and 20."""
        ttl = {"a": 10, "b": 5, "c": 10, "kept": 0}
        life = Life(joined("w"), *[task(i, result_ttl_us=t) for i, t in ttl.items()])
        life.run(*ttl)
        for task_id in ttl:
            life.succeed(task_id, at=10)
        return life

    def test_nothing_goes_before_its_time(self):
        nothing(self.life(), cmd.ExpireResults(9), at=14)

    def test_what_has_had_its_time_goes_and_is_not_known_any_more(self):
        life = self.life()
        assert life.do(cmd.ExpireResults(9), at=15) == [ev.ResultExpired(("b",))]
        assert life.do(cmd.ExpireResults(9), at=99) == [ev.ResultExpired(("a", "c"))]
        assert list(life.state.tasks) == ["kept"]
        nothing(life, cmd.ExpireResults(9))

    def test_limit_is_kept(self):
        life = self.life()
        taken = [life.do(cmd.ExpireResults(1), at=99) for _ in range(4)]
        assert taken == [*[[ev.ResultExpired((i,))] for i in "bac"], []]

    def test_to_ask_is_not_to_forget(self):
        life = self.life()
        asked = [decide(life.state, cmd.ExpireResults(limit), 99) for limit in (1, 2, 9, 9)]
        found = [[ev.ResultExpired(t)] for t in (("b",), ("b", "a"), ("b", "a", "c"))]
        assert asked == [*found, found[-1]]

    def test_failed_and_cancelled_tasks_expire_like_results(self):
        life = Life(joined("w"), task("a", result_ttl_us=5), task("b", result_ttl_us=5))
        life.cancel("a", at=10)
        life.run("b")
        life.fail("b", at=10, class_names=())
        assert life.do(cmd.ExpireResults(9), at=15) == [ev.ResultExpired(("a", "b"))]

    def test_requeued_task_has_its_time_again_after_it_ended_again(self):
        life = Life(joined("w"), task("a", result_ttl_us=5))
        life.run("a")
        life.succeed("a", at=10)
        life.do(cmd.RequeueTask("a"), at=12)
        nothing(life, cmd.ExpireResults(9), at=15)
        life.run("a")
        life.succeed("a", at=20)
        nothing(life, cmd.ExpireResults(9), at=24)
        assert life.do(cmd.ExpireResults(9), at=25) == [ev.ResultExpired(("a",))]

    def test_task_that_ended_twice_at_one_time_expires_once(self):
        life = Life(joined("w"), task("a", result_ttl_us=5))
        for _ in range(2):
            life.run("a")
            life.succeed("a", at=10)
            life.do(cmd.RequeueTask("a"), at=10)
        life.cancel("a", at=10)
        assert life.do(cmd.ExpireResults(9), at=15) == [ev.ResultExpired(("a",))]


@about(cmd.PauseQueue, cmd.ResumeQueue)
class TestPauseAndResume:
    def test_queue_is_paused_and_resumed_once(self):
        life = Life(task("t"))
        assert life.do(cmd.PauseQueue("q")) == [ev.QueuePaused("q")]
        nothing(life, cmd.PauseQueue("q"))
        assert life.do(cmd.ResumeQueue("q")) == [ev.QueueResumed("q")]
        nothing(life, cmd.ResumeQueue("q"))

    def test_what_runs_in_a_paused_queue_goes_on(self):
        life = running()
        life.do(cmd.PauseQueue("q"))
        assert life.succeed("t") == [ev.TaskSucceeded("t", 1, "w", b"r")]

    def test_paused_queue_says_that_nothing_is_ready(self):
        life = Life(joined("w"), task("t"))
        assert life.state.waiting.has_ready((), life.state.paused, life.now)
        life.do(cmd.PauseQueue("q"))
        assert not life.state.waiting.has_ready((), life.state.paused, life.now)
        assert line(life.state, life.now) == []


def test_every_command_has_its_tests():
    assert set(members(cmd.Command)) == TESTED
