"""Random commands against a naive model, with trials that are taken back, and a fold from zero."""

from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.decide import decide
from omniq.core.ids import next_run_id
from omniq.core.retry import RetryRule
from omniq.core.snapshot import Capture, restore
from omniq.errors import TaskNotFound
from tests.core.language import ANY, BOOM, EVERY_NAME, Life, joined, line, lines, picture, task

WAITING = ("PENDING", "RETRYING")
UNFINISHED = (*WAITING, "RUNNING")
LATE = (cmd.Succeed, cmd.Fail, cmd.Release, cmd.AcknowledgeCancel)
LONG_AGO, NOW = "long ago", "now"
WORKERS = st.sampled_from(["v", "w"])
QUEUES = st.sampled_from(["p", "q"])
PICK = st.integers(0, 9)


def step(method, /, **arguments):
    """Return a strategy for calls of a method of the machine."""
    return st.tuples(st.just(method), st.fixed_dictionaries(arguments))


ENQUEUE = step(
    "enqueue",
    count=st.integers(1, 3),
    queue=QUEUES,
    name=st.sampled_from("fg"),
    priority=st.integers(0, 1),
    wait=st.sampled_from([0, 0, 0, 3]),
    retries=st.integers(0, 2),
    interval=st.sampled_from([0, 0, 4]),
    ttl=st.sampled_from([0, 2]),
)
CLAIM = step(
    "claim",
    worker=WORKERS,
    queues=st.sampled_from(["pq", "qp", "p", "q"]),
    limit=st.integers(1, 4),
    names=st.sampled_from(["fgh", "fgh", "f"]),
)
OUTCOME = step(
    "outcome",
    kind=st.sampled_from([*LATE, cmd.ReportProgress, cmd.Succeed, cmd.Fail, cmd.Fail]),
    number=PICK,
    attempt=st.sampled_from([0, 0, 0, 0, 1, 2]),
    worker=WORKERS,
    delay=st.integers(0, 3),
    drawn=st.floats(0, 1),
    known=st.sampled_from([True, True, False]),
)
CANCEL = step("cancel", number=PICK)
REQUEUE = step("requeue", number=PICK)
WORKER = step(
    "worker",
    worker=WORKERS,
    what=st.sampled_from(["join", "join", "leave", "lose"]),
    heard=st.sampled_from([None, NOW, LONG_AGO]),
)
EXPIRE = step("expire_results", limit=st.integers(1, 3))
PAUSE = step("pause_or_resume", queue=QUEUES, pause=st.sampled_from([True, False, False]))


class Model:
    """A queue as one would write it in an hour: plain dicts, searched from end to end."""

    def __init__(self):
        self.tasks, self.workers, self.paused, self.leads = {}, set(), set(), {}
        self.place = 0

    def enqueue(self, now, task_id, due_at=0, **rules):
        self.tasks[task_id] = {"id": task_id, "attempt": 0, "asked": False, "worker": "", **rules}
        self.wait(self.tasks[task_id], "PENDING", max(now, due_at))
        if rules["interval"]:
            self.leads.setdefault(rules["series"], task_id)

    def wait(self, task, status, since):
        self.place += 1
        task.update(status=status, since=since, place=self.place, worker="", asked=False)

    def line(self, now, queue, names=EVERY_NAME):
        ready = [
            task
            for task in self.tasks.values()
            if task["status"] in WAITING
            and task["since"] <= now
            and task["queue"] == queue
            and task["name"] in names
            and queue not in self.paused
        ]
        ready.sort(key=lambda task: (-task["priority"], task["since"], task["place"]))
        return [task["id"] for task in ready]

    def claim(self, now, worker, queues, names, limit):
        line = [task_id for queue in queues for task_id in self.line(now, queue, names)]
        found = line[:limit] if worker in self.workers else []
        for task_id in found:
            task = self.tasks[task_id]
            task.update(status="RUNNING", attempt=task["attempt"] + 1, worker=worker, started=now)
        return found

    def holds(self, task_id, attempt, worker):
        task = self.tasks.get(task_id, {"status": ""})
        claim = task["status"] == "RUNNING" and (task["attempt"], task["worker"])
        return claim == (attempt, worker)

    def held_by(self, worker):
        return {
            task_id
            for task_id, task in self.tasks.items()
            if worker in self.workers and (task["status"], task["worker"]) == ("RUNNING", worker)
        }

    def finish(self, now, task, status):
        """End a task; the next run of an interval follows the run that leads the series."""
        leads = self.leads.get(task["series"]) == task["id"]
        follows = leads and status != "CANCELLED" and not task["asked"]
        task.update(status=status, ended=now)
        if leads:
            del self.leads[task["series"]]
        if follows:
            rules = {k: task[k] for k in ("queue", "name", "priority", "retries", "ttl")}
            rules |= {"interval": task["interval"], "series": task["series"]}
            due_at = task["started"] + task["interval"]
            self.enqueue(now, next_run_id(task["id"], now), due_at, **rules)

    def fail(self, now, task, *, retry_at, again=True):
        if task["asked"]:
            self.finish(now, task, "CANCELLED")
        elif again and task["attempt"] <= task["retries"]:
            self.wait(task, "RETRYING", retry_at)
        else:
            self.finish(now, task, "FAILED")

    def release(self, now, task, since):
        if task["asked"]:
            self.finish(now, task, "CANCELLED")
        else:
            task["attempt"] -= 1
            self.wait(task, "PENDING", since)

    def cancel(self, now, task_id):
        leader = self.leads.get(self.tasks[task_id]["series"], task_id)
        for run in [self.tasks[i] for i in dict.fromkeys((task_id, leader))]:
            if run["status"] in WAITING:
                self.finish(now, run, "CANCELLED")
            elif run["status"] == "RUNNING":
                run["asked"] = True

    def requeue(self, now, task_id):
        task = self.tasks[task_id]
        if task["status"] not in UNFINISHED:
            task["attempt"] = 0
            self.wait(task, "PENDING", now)
            if task["interval"]:
                self.leads.setdefault(task["series"], task_id)

    def expired(self, now):
        ended = [task for task in self.tasks.values() if task["status"] not in UNFINISHED]
        return {task["id"] for task in ended if task["ttl"] and task["ended"] + task["ttl"] <= now}

    def picture(self):
        return {
            task["id"]: (task["status"], task["attempt"], task["worker"], task["asked"])
            for task in self.tasks.values()
        }


class Machine(RuleBasedStateMachine):
    """Each rule is a command: in the trial that is under way, or else as a commit of its own."""

    def __init__(self):
        super().__init__()
        self.life, self.model = Life(), Model()
        self.enqueued = 0
        self.before = None  # in a trial: the model and the picture at its beginning
        self.tried = []
        self.snapshot = None

    def do(self, command):
        if self.before is None:
            return self.life.do(command, at=self.life.now)
        events = self.life.attempt(command)
        self.tried += events
        return events

    def pick(self, number):
        """Return the id of a task, or one that is unknown."""
        known = [*self.model.tasks, "unknown"]
        return known[number % len(known)]

    def claim_of(self, number, attempt, worker):
        """Return a claim: that of a running task, or for `attempt` > 0 most likely a wrong one."""
        running = [i for i, task in self.model.tasks.items() if task["status"] == "RUNNING"]
        if not running or attempt:
            return self.pick(number), attempt, worker
        task = self.model.tasks[running[number % len(running)]]
        return task["id"], task["attempt"], task["worker"]

    @initialize()
    def begin(self):
        self.join("w")
        self.join("v")
        for interval in (0, 4):
            rules = {"name": "f", "queue": "p", "priority": 0, "wait": 0, "retries": 1, "ttl": 2}
            self.enqueue(2, interval=interval, **rules)

    @rule(microseconds=st.integers(1, 5))
    @precondition(lambda self: self.before is None)
    def pass_time(self, microseconds):
        self.life.now += microseconds

    @rule()
    @precondition(lambda self: self.before is None)
    def take_snapshot(self):
        self.snapshot = len(self.life.commits), list(Capture(self.life.state).parts())

    @rule()
    @precondition(lambda self: self.before is None and self.snapshot)
    def restart_from_snapshot(self):
        self.life.state = self.restored()

    def restored(self):
        """Return what the latest snapshot and the commits behind it make."""
        commits, parts = self.snapshot
        *_, state = restore(parts)
        for commit in self.life.commits[commits:]:
            state.apply(commit)
        return state

    @rule()
    @precondition(lambda self: self.before is None)
    def begin_trial(self):
        self.life.state.waiting.recall(EVERY_NAME)
        self.before = deepcopy(self.model), picture(self.life.state), lines(self.life.state)
        self.life.now += 1
        self.life.state.begin(self.life.now)

    @rule(keep=st.booleans())
    @precondition(lambda self: self.before is not None)
    def end_trial(self, keep):
        if keep and self.tried:
            first = self.life.state.seq - len(self.tried) + 1
            self.life.state.keep()
            self.life.commits.append(ev.Commit(first, self.life.now, "us", self.tried))
        else:
            self.life.state.rollback()
            self.model, pictured, lined = self.before
            assert picture(self.life.state) == pictured
            assert lines(self.life.state) == lined
        self.before, self.tried = None, []

    @rule(step=st.one_of(ENQUEUE, CLAIM, CLAIM, OUTCOME, OUTCOME, OUTCOME, CANCEL))
    def work(self, step):
        method, arguments = step
        getattr(self, method)(**arguments)

    @rule(step=st.one_of(CANCEL, REQUEUE, WORKER, EXPIRE, PAUSE))
    def operate(self, step):
        method, arguments = step
        getattr(self, method)(**arguments)

    def enqueue(self, count, wait, retries, interval, ttl, **rules):
        now, events = self.life.now, []
        due_at = now + wait if wait else 0
        for _ in range(count):
            self.enqueued += 1
            task_id = f"t{self.enqueued}"
            series = task_id if interval else ""
            events.append(
                task(
                    task_id,
                    due_at=due_at,
                    retry=RetryRule(max_retries=retries, base_delay_us=4),
                    interval_us=interval,
                    series_id=series,
                    result_ttl_us=ttl,
                    **rules,
                )
            )
            mine = {"retries": retries, "interval": interval, "series": series, "ttl": ttl}
            self.model.enqueue(now, task_id, due_at, **mine, **rules)
        assert self.do(cmd.Enqueue(tuple(events))) == events

    def claim(self, worker, queues, limit, names):
        if self.before is None:
            self.life.state.waiting.recall(names)
        else:
            names = "".join(EVERY_NAME)  # what is set aside stays so after a rollback
        started = self.do(cmd.Claim(worker, tuple(queues), frozenset(names), limit))
        expected = self.model.claim(self.life.now, worker, queues, names, limit)
        assert [event.task_id for event in started] == expected

    def outcome(self, kind, number, attempt, worker, delay, drawn, known):
        now, claim = self.life.now, self.claim_of(number, attempt, worker)
        more = {
            cmd.Succeed: (b"r",),
            cmd.Fail: (BOOM, ANY if known else (), drawn),
            cmd.Release: ("", delay),
            cmd.AcknowledgeCancel: (),
            cmd.ReportProgress: (0.5,),
        }[kind]
        events = self.do(kind(*claim, *more))
        if not self.model.holds(*claim):
            assert [type(event) for event in events] == [ev.TaskLate] * (kind in LATE)
            return
        assert ev.TaskLate not in map(type, events)
        task = self.model.tasks[claim[0]]
        if kind is cmd.Succeed:
            self.model.finish(now, task, "SUCCESS")
        elif kind is cmd.Release:
            self.model.release(now, task, now + delay)
        elif kind is cmd.AcknowledgeCancel:
            self.model.finish(now, task, "CANCELLED")
        elif kind is cmd.Fail:
            retry_at = getattr(events[0], "retry_at", now)
            assert now <= retry_at <= now + 4 * 2 ** (claim[1] - 1)
            self.model.fail(now, task, retry_at=retry_at, again=known)

    def cancel(self, number):
        self.change(cmd.CancelTask, self.model.cancel, number)

    def requeue(self, number):
        self.change(cmd.RequeueTask, self.model.requeue, number)

    def change(self, command, of_model, number):
        task_id = self.pick(number)
        if task_id in self.model.tasks:
            self.do(command(task_id))
            of_model(self.life.now, task_id)
            return
        with pytest.raises(TaskNotFound):
            decide(self.life.state, command(task_id), self.life.now)

    def worker(self, worker, what, heard):
        if what == "join":
            self.join(worker)
            return
        now, held = self.life.now, self.model.held_by(worker)
        if what == "leave":
            events = self.do(cmd.Leave(worker))
        elif heard == LONG_AGO:
            assert self.do(cmd.DeclareLost(worker, "gone", 0)) == []
            return
        else:
            heard = self.life.state.heard.get(worker) if heard else None
            events = self.do(cmd.DeclareLost(worker, "gone", heard))
        ended = [event.task_id for event in events if hasattr(event, "attempt")]
        assert (len(ended), set(ended)) == (len(held), held)
        for task_id in ended:  # in any order
            if what == "leave":
                self.model.release(now, self.model.tasks[task_id], now)
            else:
                self.model.fail(now, self.model.tasks[task_id], retry_at=now)
        self.model.workers.discard(worker)

    def join(self, worker):
        self.do(cmd.Join(joined(worker)))
        self.model.workers.add(worker)

    def expire_results(self, limit):
        expired = self.model.expired(self.life.now)
        events = self.do(cmd.ExpireResults(limit))
        found = list(events[0].task_ids) if events else []
        assert len(found) == len(set(found)) == min(limit, len(expired))
        assert set(found) <= expired
        for task_id in found:
            del self.model.tasks[task_id]

    def pause_or_resume(self, queue, pause):
        self.do(cmd.PauseQueue(queue) if pause else cmd.ResumeQueue(queue))
        self.model.paused = self.model.paused - {queue} | ({queue} if pause else set())

    @invariant()
    def state_is_that_of_the_model(self):
        found = {
            record.id: (
                str(record.status),
                record.attempt,
                record.run.worker if record.status == "RUNNING" else "",
                record.status == "RUNNING" and record.run.cancel_requested,
            )
            for record in self.life.state.tasks.values()
        }
        expected = {
            i: (*seen[:2], *(seen[2:] if seen[0] == "RUNNING" else ("", False)))
            for i, seen in self.model.picture().items()
        }
        assert found == expected
        assert self.life.state.series == self.model.leads
        assert set(self.life.state.workers) == self.model.workers
        for record in self.life.state.tasks.values():
            assert record.attempt <= 1 + record.spec.retry.max_retries

    @invariant()
    def live_state_is_the_fold_of_its_commits_and_snapshot_plus_tail(self):
        if self.before is not None:
            return
        live, now = self.life.state, self.life.now
        live.waiting.recall(EVERY_NAME)
        for state in (live, self.life.refolded(), self.restored() if self.snapshot else live):
            assert picture(state) == picture(live)
            for queue in ("p", "q"):
                assert line(state, now, queue) == self.model.line(now, queue)

    def teardown(self):
        """See the whole line, also of what is not due yet."""
        if self.before is not None:
            self.end_trial(keep=False)
        end = 10**9
        for queue in ("p", "q"):
            expected = self.model.line(end, queue)
            assert line(self.life.state, end, queue) == expected
            assert line(self.life.refolded(), end, queue) == expected
            if self.snapshot:
                assert line(self.restored(), end, queue) == expected


def test_random_commands_have_the_effects_that_a_naive_model_has():
    run_state_machine_as_test(
        Machine, settings=settings(stateful_step_count=50, max_examples=250, deadline=None)
    )
