"""The line of waiting tasks, against a sort, and what it costs in memory."""

import gc
import tracemalloc
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.ids import uuid7
from omniq.core.projection import Projection
from omniq.storage.encoding import decode_commit, encode_commit
from tests.core.language import Life, joined, lines, task

BACKLOG = 100_000
PAYLOAD_BYTES = 100
MAX_BYTES_A_TASK = 400

# What is done to a line: (seconds that pass, which task, what happens to it).
TASKS = st.fixed_dictionaries(
    {
        "queue": st.sampled_from("pq"),
        "priority": st.integers(-1, 1),
        "due_at": st.sampled_from([0, 0, 5, 20, 40]),
    }
)
STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 99), st.sampled_from(["enqueue", "away", "back"])),
    max_size=30,
)


def order(rules, ready):
    """Sort by priority, then by who was ready first, then by who came first."""
    ranked = [(-rules[i]["priority"], due_at, place, i) for i, (due_at, place) in ready.items()]
    return [task_id for *_, task_id in sorted(ranked)]


@given(st.lists(TASKS, min_size=1, max_size=30), STEPS)
def test_line_is_sorted_by_priority_and_then_by_who_was_ready_first(new, steps):
    """Others start and release tasks meanwhile; each task that waits is in line exactly once."""
    life = Life(joined("w"))
    rules, ready, away = {}, {}, []
    for place, (seconds, pick, what) in enumerate(steps):
        at = life.now + seconds
        if what == "enqueue" and new:
            task_id, rules_of = f"t{place}", new.pop()
            rules[task_id] = rules_of
            life.happen(task(task_id, **rules_of), at=at)
        elif what == "away" and ready:
            task_id = sorted(ready)[pick % len(ready)]
            del ready[task_id]
            away.append(task_id)
            life.happen(ev.TaskStarted(task_id, 1, "w"), at=at)
            continue
        elif what == "back" and away:
            task_id = away.pop(pick % len(away))
            life.happen(ev.TaskReleased(task_id, 1, "w"), at=at)
            rules_of = {"due_at": 0}
        else:
            continue
        ready[task_id] = (max(at, rules_of["due_at"]), place)
    for now in (life.now, 10**6):
        due = {i: since for i, since in ready.items() if since[0] <= now}
        expected = {
            queue: order(
                rules, {i: since for i, since in due.items() if rules[i]["queue"] == queue}
            )
            for queue in "pq"
        }
        assert lines(life.state, now) == {queue: line for queue, line in expected.items() if line}
        assert lines(life.refolded(), now) == lines(life.state, now)


def test_task_with_a_time_in_the_past_stands_at_the_end_of_the_line():
    life = Life(joined("w"))
    life.happen(task("a"), at=100)
    life.happen(task("b", due_at=1), at=101)
    assert lines(life.state) == {"q": ["a", "b"]}


def test_next_due_is_the_earliest_time_of_a_task_that_still_waits():
    life = Life(joined("w"), task("a", due_at=50), task("b", due_at=70), task("c"))
    assert life.state.waiting.next_due() == 50
    life.cancel("a")
    assert life.state.waiting.next_due() == 70
    life.cancel("b")
    assert life.state.waiting.next_due() is None


def test_queue_has_something_ready_once_it_is_due():
    waiting = Life(joined("w"), task("a", due_at=50)).state.waiting
    assert not waiting.has_ready((), set(), 49)
    assert waiting.has_ready((), set(), 50)
    assert waiting.has_ready(("q",), set(), 50)
    assert not waiting.has_ready(("other",), set(), 50)
    assert not waiting.has_ready((), {"q"}, 50)


def backlog(count):
    """Yield the commits of a backlog, with ids as they are made in practice."""
    for first in range(0, count, 1000):
        at = 1_767_225_600_000_000 + first
        numbers = range(first, min(count, first + 1000))
        events = [
            task(
                uuid7(at + number, number.to_bytes(8, "big")),
                name="app.jobs:resize",
                queue="default",
                payload=number.to_bytes(PAYLOAD_BYTES, "big"),
            )
            for number in numbers
        ]
        yield encode_commit(ev.Commit(first + 1, at, "a@host:1", events))


def memory_of(state_of):
    """Return the bytes that are allocated for what a function returns."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = state_of()
        gc.collect()
        return tracemalloc.get_traced_memory()[0], kept
    finally:
        tracemalloc.stop()


def fold(commits):
    state = Projection()
    for payload in commits:
        state.apply(decode_commit(payload))
    return state


def test_pending_task_with_its_payload_costs_at_most_400_bytes():
    commits = list(backlog(BACKLOG))
    size, state = memory_of(lambda: fold(commits))
    assert len(state.tasks) == BACKLOG
    assert size / BACKLOG <= MAX_BYTES_A_TASK


def test_memory_of_the_line_does_not_grow_with_history():
    """A task that nobody here can run stands first; 20,000 others pass it, run elsewhere."""

    def history(count):
        life = Life(joined("w"), task("foreign", name="g"))
        commits = life.commits
        for number in range(count):
            task_id = f"{number:036}"
            first = commits[-1].last_seq + 1
            events = [
                task(task_id, result_ttl_us=1, due_at=number % 2 * 10**12),
                ev.TaskStarted(task_id, 1, "w"),
                ev.TaskSucceeded(task_id, 1, "w", b""),
                ev.ResultExpired((task_id,)),
            ]
            commits.append(ev.Commit(first, number, "a", events))
        return [encode_commit(commit) for commit in commits]

    small, large = history(1_000), history(21_000)
    grown = memory_of(lambda: fold(large))[0] - memory_of(lambda: fold(small))[0]
    assert grown <= 20_000 * 20


def test_memory_does_not_grow_with_rules_that_no_task_has_any_more():
    """Such as those of series, each of which has an id of its own."""

    def history(count):
        commits = Life(joined("w")).commits
        for number in range(count):
            task_id, first = f"{number:036}", commits[-1].last_seq + 1
            events = [
                task(task_id, result_ttl_us=1, interval_us=1, series_id=task_id),
                ev.TaskCancelled(task_id),
                ev.ResultExpired((task_id,)),
            ]
            commits.append(ev.Commit(first, number, "a", events))
        return [encode_commit(commit) for commit in commits]

    small, large = history(3_000), history(23_000)
    grown = memory_of(lambda: fold(large))[0] - memory_of(lambda: fold(small))[0]
    assert grown <= 20_000 * 20


def test_memory_of_the_line_does_not_grow_with_what_this_process_cancelled():
    def life_of(count):
        life = Life(joined("w"), task("foreign", name="g"))
        life.commits = deque(maxlen=1)
        for number in range(count):
            task_id = f"{number:036}"
            life.enqueue(task(task_id, result_ttl_us=1, due_at=number % 2 * 10**12))
            life.cancel(task_id)
            life.do(cmd.ExpireResults(9), at=life.now + 1)
        return life

    grown = memory_of(lambda: life_of(13_000))[0] - memory_of(lambda: life_of(3_000))[0]
    assert grown <= 10_000 * 40
