"""A lane against a plain list, and what it costs when it is long."""

import gc
from collections import deque
from types import SimpleNamespace
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from omniq.core import lane as lanes
from omniq.core.lane import TASKS_A_PART, Lane

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "extend", "put_first", "pop", "end"]),
        st.integers(0, 99),
    ),
    max_size=120,
)


class Line:
    """A lane beside the list of what counts in it."""

    def __init__(self):
        self.lane = Lane()
        self.tasks = {}
        self.line = []
        self.made = 0

    def new(self):
        self.made += 1
        task = SimpleNamespace(id=f"t{self.made}")
        self.tasks[task.id] = task
        return task

    def append(self, _pick=0):
        self.line.append(self.new())
        self.lane.append(self.line[-1])

    def extend(self, pick):
        tasks = [self.new() for _ in range(pick % 7)]
        self.line.extend(tasks)
        self.lane.extend(tasks)

    def put_first(self, _pick=0):
        self.line.insert(0, self.new())
        self.lane.put_first(self.line[0])

    def pop(self, _pick=0):
        """Take the first that counts, as a worker does."""
        while self.lane:
            task = self.lane.pop()
            if self.tasks.get(task.id) is task:
                assert task is self.line.pop(0)
                return
        assert not self.line

    def end(self, pick):
        """Let a task end elsewhere, so that its entry is void."""
        if self.line:
            del self.tasks[self.line.pop(pick % len(self.line)).id]
            self.lane.drop_void(self.tasks, 1)

    def counting(self):
        return [task for task in self.lane.copy() if self.tasks.get(task.id) is task]


@given(STEPS)
def test_lane_is_a_line_of_what_counts_in_it(steps):
    with mock.patch.object(lanes, "TASKS_A_PART", 4):
        line = Line()
        for step, pick in steps:
            getattr(line, step)(pick)
            assert line.counting() == line.line
            if line.line:
                assert line.lane
        while line.line:
            line.pop()
        line.pop()


def test_copy_of_a_lane_is_not_changed_by_what_happens_to_the_lane():
    line = Line()
    for _ in range(3 * TASKS_A_PART):
        line.append()
    before, copy = list(line.line), line.lane.copy()
    for _ in range(2 * TASKS_A_PART):
        line.pop()
    line.append()
    assert list(copy) == before


def test_void_entries_of_a_lane_are_at_most_as_many_as_those_that_count_and_some_more():
    line = Line()
    for number in range(20_000):
        line.append()
        if number % 100:
            line.end(-1 - number % 5)  # never the first
            assert len(list(line.lane.copy())) <= 2 * len(line.line) + 4 * TASKS_A_PART


def test_garbage_collector_does_not_walk_over_a_long_lane():
    line = Line()
    for number in range(50 * TASKS_A_PART):
        line.lane.append(number)  # what the collector does not track either
    gc.collect()
    (parts,) = (held for held in gc.get_referents(line.lane) if type(held) is deque)
    assert len(parts) >= 48
    assert not any(gc.is_tracked(part) for part in parts)
