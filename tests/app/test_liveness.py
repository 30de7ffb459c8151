"""Who counts as dead: the kernel's lock decides where it can be seen, and the lease elsewhere."""

import os

import pytest

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.host import boot_id, host_name
from omniq.storage.file import FileStorage
from omniq.testing import VirtualClock
from omniq.worker.liveness import Watch

LEASE = 30.0


@pytest.fixture
async def storage(tmp_path):
    storage = FileStorage(tmp_path / "journal")
    await storage.open()
    yield storage
    await storage.close()


def state_with(boot: str, host: str, pid: int) -> Projection:
    """Return a state in which worker w holds a task."""
    state = Projection()
    joined = ev.WorkerJoined("w", host, pid, boot, int(LEASE * 1_000_000))
    state.apply(ev.Commit(1, 1, "a", [joined, ev.TaskEnqueued("t", "m:f", "q", b"")]))
    state.apply(ev.Commit(3, 2, "a", [ev.TaskStarted("t", 1, "w")]))
    return state


def lost(watch: Watch, state: Projection) -> list[str]:
    return [command.reason for command in watch.find_lost(state, own="me")]


async def test_a_process_id_that_another_process_has_by_now_means_nothing(storage) -> None:
    """Its lock is free, so the worker is dead, although a process with its id is alive."""
    watch = Watch(storage, VirtualClock())
    state = state_with(boot_id(), host_name(), os.getpid())
    assert lost(watch, state) == [f"its process {os.getpid()} on {host_name()} died"]


async def test_a_worker_whose_lock_is_held_is_alive_whatever_its_process_id(storage) -> None:
    watch = Watch(storage, VirtualClock())
    await storage.hold_life("w")
    assert lost(watch, state_with(boot_id(), host_name(), 2**22 + 1)) == []


async def test_a_worker_of_a_machine_that_was_restarted_is_dead(storage) -> None:
    watch = Watch(storage, VirtualClock())
    assert len(lost(watch, state_with("the boot before", host_name(), 1))) == 1


async def test_a_worker_of_another_machine_is_judged_by_its_lease_alone(storage) -> None:
    clock = VirtualClock()
    watch, state = Watch(storage, clock), state_with("another boot", "another host", os.getpid())
    assert lost(watch, state) == []
    await clock.advance(LEASE)
    assert lost(watch, state) == []
    state.apply(ev.Commit(4, 3, "w", [ev.WorkerRenewed("w", 0)]))
    await clock.advance(LEASE)
    assert lost(watch, state) == []  # it was heard of
    await clock.advance(LEASE + 1)
    assert lost(watch, state) == ["it was not heard of for its lease of 30 s"]


@pytest.mark.parametrize("hours", [-1000, 1000])
async def test_no_lease_ends_because_a_wall_clock_is_set(storage, hours) -> None:
    clock = VirtualClock()
    watch, state = Watch(storage, clock), state_with("another boot", "another host", 1)
    assert lost(watch, state) == []
    clock.step(3600 * hours)
    assert lost(watch, state) == []
    await clock.advance(LEASE / 2)
    assert lost(watch, state) == []


class TestAWorkerOfThisHostThatDoesNotRenewItsLease:
    """It may hold the interpreter's lock, or find the disk full; or it is stopped."""

    @pytest.fixture
    async def look(self, storage, monkeypatch):
        """Return who is lost after so many seconds, if the worker's process has run for so long."""
        clock = VirtualClock()
        watch, state = Watch(storage, clock), state_with(boot_id(), host_name(), os.getpid())
        await storage.hold_life("w")

        async def look(seconds: float, ran: int | None) -> list[str]:
            monkeypatch.setattr(storage, "processor_time", lambda _worker: ran)
            await clock.advance(seconds)
            return lost(watch, state)

        assert await look(0, 0) == []
        assert await look(LEASE, 0) == []
        return look

    async def test_is_alive_as_long_as_its_process_runs(self, look):
        for ran in range(10):
            assert await look(LEASE + 1, ran) == []
            assert await look(0.5, ran + 1) == []

    async def test_is_lost_a_look_after_its_lease_if_its_process_does_not_run(self, look):
        assert await look(1, 7) == []
        assert await look(0.5, 7) == ["it was not heard of for its lease of 30 s"]

    async def test_is_lost_when_its_process_stops_later(self, look):
        assert await look(1, 7) == []
        assert await look(0.5, 8) == []
        assert await look(LEASE, 8) == []
        assert await look(1, 8) == []
        assert len(await look(0.5, 8)) == 1

    async def test_is_lost_after_its_lease_where_the_system_does_not_tell(self, look):
        assert len(await look(1, None)) == 1


async def test_a_process_that_works_has_a_growing_processor_time(storage) -> None:
    await storage.hold_life("w")
    watch = FileStorage(storage.path)
    await watch.open()
    before = watch.processor_time("w")
    assert before is not None
    sum(range(1_000_000))
    assert (watch.processor_time("w") or 0) > before
    assert watch.processor_time("nobody") is None
    await watch.close()
