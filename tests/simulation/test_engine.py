"""The engine against a naive model: clients that crash, torn ends, power cuts, clocks that jump.

Two processes share a journal on the simulated disk. After every step the state of each is that of a
fold from zero, and that of the newest snapshot with what came after it.
"""

import asyncio
import random
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from omniq import RetryPolicy
from omniq.core.projection import Projection
from omniq.storage.file import FileStorage
from omniq.upkeep import restored
from tests.core.language import EVERY_NAME, lines, picture
from tools.simulate import bury
from tools.simulation.loop import SimulatedLoop
from tools.simulation.machine import Machine, Process, Renewal

AT_ONCE = RetryPolicy(max_retries=1, base_delay=0.0)
CLIENTS = st.integers(0, 1)
PICK = st.integers(0, 99)


class Model:
    """A queue as one would write it in ten minutes: what becomes of each task."""

    def __init__(self):
        self.tasks = {}  # id -> [status, kind, attempts]

    def enqueue(self, task_id, kind):
        self.tasks[task_id] = ["PENDING", kind, 0]

    def drain(self):
        for task in self.tasks.values():
            if task[0] == "PENDING":
                task[:] = {
                    "works": ["SUCCESS", "works", 1],
                    "fails": ["FAILED", "fails", 2],
                    "flaky": ["SUCCESS", "flaky", 2],
                }[task[1]]

    def cancel(self, task_id):
        if self.tasks[task_id][0] == "PENDING":
            self.tasks[task_id][0] = "CANCELLED"

    def requeue(self, task_id):
        if self.tasks[task_id][0] != "PENDING":
            self.tasks[task_id][0], self.tasks[task_id][2] = "PENDING", 0

    def picture(self):
        return {
            task_id: (status, attempts) for task_id, (status, _, attempts) in self.tasks.items()
        }


class Engine(RuleBasedStateMachine):
    """Each rule is something that a program does, or that happens to it."""

    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)
        self.loop = SimulatedLoop(self.rng)
        self.patches = [
            mock.patch("omniq.worker.pool.LeaseRenewal", Renewal),
            mock.patch("omniq.upkeep.EVENTS_A_SNAPSHOT", 8),
            mock.patch("omniq.upkeep.EVENTS_A_TASK", 0),
        ]
        for patch in self.patches:
            patch.start()
        asyncio.set_event_loop(self.loop)
        self.machine = Machine(self.loop, self.rng)
        self.model = Model()
        self.processes = [self.new_process(), self.new_process()]

    def new_process(self) -> Process:
        process = self.machine.start()

        @process.app.task(name="work", retry=AT_ONCE)
        async def work(kind):
            from omniq import current_task

            if kind == "fails" or (kind == "flaky" and current_task().attempt == 1):
                raise ValueError(kind)
            return kind

        process.work_task = work
        return process

    def run(self, work):
        """Run something to its end, and make it durable."""
        return self.loop.run_until_complete(work)

    async def flushed(self, process):
        await (await process.app.engine()).flush()

    def pick(self, number):
        ids = list(self.model.tasks)
        return ids[number % len(ids)] if ids else None

    @rule(
        client=CLIENTS,
        kinds=st.lists(st.sampled_from(["works", "fails", "flaky"]), min_size=1, max_size=4),
    )
    def enqueue(self, client, kinds):
        async def enqueue():
            return await self.processes[client].work_task.enqueue_many([(kind,) for kind in kinds])

        for handle, kind in zip(self.run(enqueue()), kinds, strict=True):
            self.model.enqueue(handle.id, kind)

    @rule(client=CLIENTS)
    def drain(self, client):
        async def drain():
            await self.processes[client].app.worker(concurrency=3).drain()
            await self.flushed(self.processes[client])

        self.run(drain())
        self.model.drain()

    @rule(client=CLIENTS, number=PICK, what=st.sampled_from(["cancel", "requeue"]))
    def change(self, client, number, what):
        task_id = self.pick(number)
        if task_id is None:
            return

        async def change():
            await getattr(self.processes[client].app.handle(task_id), what)()
            await self.flushed(self.processes[client])

        self.run(change())
        getattr(self.model, what)(task_id)

    @rule(client=CLIENTS, hours=st.sampled_from([-24, -1, 1, 24]))
    def step_clock(self, client, hours):
        self.processes[client].clock.wrong_by += 3600 * hours

    @rule(client=CLIENTS)
    def crash(self, client):
        self.machine.kill(self.processes[client])
        self.processes[client] = self.new_process()

    @rule(
        client=CLIENTS,
        turns=st.integers(0, 60),
        seed=st.integers(0, 10**6),
        kills_all=st.booleans(),
    )
    def end_in_the_middle(self, client, turns, seed, kills_all):
        """A process is enqueueing when it is killed, or when the power is cut: a torn end."""
        process = self.processes[client]

        async def begin():
            process.spawn(process.work_task.enqueue_many([("works",)] * 5))
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(begin())
        if kills_all:
            self.machine.rng = random.Random(seed)
            self.machine.cut_power()
            self.machine.rng = self.rng
            self.processes = [self.new_process(), self.new_process()]
        else:
            self.machine.kill(process)
            self.processes[client] = self.new_process()
        known = set(self.model.tasks)
        new = [task_id for task_id in self.states()[0].tasks if task_id not in known]
        assert len(new) in (0, 5), "a batch is there, or it is not"
        self.run(self.flushed(self.processes[client]))  # else the next power cut may still take it
        for task_id in new:
            self.model.enqueue(task_id, "works")

    def states(self):
        """Return the states of both processes, the fold, and snapshot and tail."""

        async def look():
            live = [await (await p.app.engine()).refresh() for p in self.processes]
            reader = FileStorage(self.machine.path, read_only=True, disk=self.machine.disk)
            await reader.open()
            folded = []
            for state in (Projection(), await restored(reader)):
                while commits := await reader.read(state.seq):
                    for commit in commits:
                        state.apply(commit)
                folded.append(state)
            await reader.close()
            return [*live, *folded]

        return self.run(look())

    @invariant()
    def all_states_are_that_of_the_model(self):
        states = self.states()
        for state in states:
            found = {t.id: (str(t.status), t.attempt) for t in state.tasks.values()}
            assert found == self.model.picture()
            state.waiting.recall(EVERY_NAME)
        pictures = [picture(state) for state in states]
        assert pictures == [pictures[0]] * 4
        assert [lines(state) for state in states[1:]] == [lines(states[0])] * 3

    def teardown(self):
        for process in tuple(self.machine.processes):
            self.machine.kill(process)
        self.run(bury())
        self.run(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        self.machine.remove()
        for patch in self.patches:
            patch.stop()


@pytest.mark.timeout(120)
def test_engine_does_what_a_naive_model_does_whatever_happens_to_it():
    run_state_machine_as_test(
        Engine,
        settings=settings(
            stateful_step_count=25,
            max_examples=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
