"""Every command in every state of a task, and every two commands one after the other."""

from functools import partial
from itertools import product

import pytest

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.evolve import evolve
from omniq.core.retry import RetryRule
from omniq.core.transitions import TERMINAL, TaskStatus
from omniq.errors import TaskNotFound
from tests.core.language import (
    ANY,
    BOOM,
    EVERY_NAME,
    in_state,
    joined,
    line,
    members,
    picture,
    task,
)

CLAIMS = [("t", 1, "w"), ("t", 2, "w"), ("unknown", 1, "w")]
COMMANDS = [
    cmd.Enqueue((task("new"), task("later", due_at=50, queue="other"))),
    *[cmd.Claim(worker, (), frozenset("f"), limit) for worker in "wv" for limit in (1, 9)],
    cmd.Claim("w", ("other", "q"), frozenset("g"), 9),
    *[cmd.Succeed(*claim, b"r") for claim in CLAIMS],
    *[cmd.Fail(*claim, BOOM, ANY) for claim in CLAIMS],
    cmd.Fail("t", 1, "w", BOOM),
    *[cmd.Release(*claim, "later", 5) for claim in CLAIMS],
    *[cmd.AcknowledgeCancel(*claim) for claim in CLAIMS],
    cmd.ReportProgress("t", 1, "w", 0.5),
    cmd.CancelTask("t"),
    cmd.CancelTask("unknown"),
    cmd.RequeueTask("t"),
    cmd.Join(joined("v")),
    cmd.Leave("w"),
    cmd.Leave("v"),
    cmd.DeclareLost("w", "gone"),
    cmd.DeclareLost("w", "gone", 1),
    cmd.ExpireResults(9),
    cmd.PauseQueue("q"),
    cmd.ResumeQueue("q"),
]
RULES = [
    {
        "retry": RetryRule(max_retries=retries, base_delay_us=0),
        "interval_us": interval,
        "series_id": "t" if interval else "",
        "result_ttl_us": 1,
    }
    for retries, interval in ((0, 0), (1, 5))
]
TASK_EVENTS = tuple(members(ev.TaskEvent))
NOW = 20


def states():
    """Yield functions that make a life, for each state and what may go with it."""
    for status, rules in product(TaskStatus, RULES):
        yield partial(in_state, status, **rules)
    for rules in RULES:
        yield partial(then, ev.TaskCancelRequested("t"), TaskStatus.RUNNING, rules)
        if rules["interval_us"]:
            yield partial(then, task("t2", **rules), TaskStatus.SUCCESS, rules)


def then(event, status, rules):
    life = in_state(status, **rules)
    life.happen(event)
    return life


def in_line(state):
    state.waiting.recall(EVERY_NAME)
    return {queue: line(state, NOW, queue) for queue in ("q", "other")}


def carry_out(life, command):
    """Carry out a command in a trial and check each event against the pure `evolve`."""
    tasks = dict(life.state.tasks)
    try:
        events = life.attempt(command)
    except TaskNotFound:
        return []
    for event in events:
        if isinstance(event, ev.ResultExpired):
            for task_id in event.task_ids:
                assert tasks.pop(task_id).status in TERMINAL
        elif isinstance(event, TASK_EVENTS):
            before = tasks.get(event.task_id)
            if before is not None or not isinstance(event, ev.TaskLate):
                tasks[event.task_id] = evolve(before, event, life.now)
    assert tasks == life.state.tasks
    return events


def test_every_kind_of_command_is_tried():
    assert set(map(type, COMMANDS)) == set(members(cmd.Command))


@pytest.mark.parametrize("kind", sorted(members(cmd.Command), key=lambda kind: kind.__name__))
def test_two_commands_have_events_that_can_follow_and_can_be_taken_back(kind):
    mine = [command for command in COMMANDS if type(command) is kind]
    for make, first, second in product(states(), mine, COMMANDS):
        if first is second and kind is cmd.Enqueue:
            continue  # ids are drawn, never twice
        life = make()
        life.now = NOW
        before, ready = picture(life.state), in_line(life.state)
        life.state.begin(NOW)
        tried = [carry_out(life, command) for command in (first, second)]
        life.state.rollback()
        assert picture(life.state) == before
        assert in_line(life.state) == ready

        life.state.begin(NOW)
        again = [carry_out(life, command) for command in (first, second)]
        assert again == tried
        if events := again[0] + again[1]:
            life.state.keep()
            life.commits.append(ev.Commit(before["state"].seq + 1, NOW, "us", events))
        else:
            life.state.rollback()
        folded = life.refolded()
        assert picture(folded) == picture(life.state)
        assert in_line(folded) == in_line(life.state)
