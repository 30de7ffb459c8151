"""The contract of `BaseStorage` as a test class that any backend can be put under."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from omniq.core.events import (
    ErrorRecord,
    Event,
    QueuePaused,
    ResultExpired,
    TaskEnqueued,
    TaskFailed,
    TaskStarted,
    TaskSucceeded,
)
from omniq.core.retry import RetryRule
from omniq.errors import JournalConflict, SerializationError, StorageClosed, StorageError
from omniq.storage.base import BaseStorage, Head
from omniq.storage.encoding import chain, encode_commit
from omniq.testing.claims import claim, in_thread, opened, read_all, tasks
from omniq.testing.virtual import settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from omniq.core.events import Commit

__all__ = ("StorageConformance",)


class StorageConformance(ABC):
    """What every backend owes, one test a claim: subclass it as `Test…` in a module for pytest."""

    sees_death = False
    """Whether `hold_life` and `is_dead` can tell a dead worker from a live one."""

    @abstractmethod
    def make_storage(self, path: Path) -> BaseStorage:
        """Return a handle, not open yet, on a new journal; all others on it come from `sibling`.

        `path` is an empty folder of the test's own, if you need one.
        """

    @claim
    async def test_new_journal_is_empty(self, storage: BaseStorage) -> None:
        """Nothing is in it, and that nothing is durable."""
        assert await storage.head() == Head()
        assert await storage.read(0) == []
        assert await storage.read_task("a") == []
        assert storage.durable == 0
        await storage.sync(0)

    @claim
    async def test_append_numbers_events_without_gaps(self, storage: BaseStorage) -> None:
        """The commit that is returned says what was written: numbers, time, actor, events."""
        first = await storage.append(tasks("a", "b"), at=10, actor="me")
        second = await storage.append(tasks("c"), at=20, actor="you")
        assert (first.first_seq, first.last_seq, first.at, first.actor) == (1, 2, 10, "me")
        assert (second.first_seq, second.last_seq, second.at, second.actor) == (3, 3, 20, "you")
        assert [*first.events, *second.events] == tasks("a", "b", "c")
        assert await read_all(storage) == [first, second]

    @claim
    async def test_every_value_is_read_as_it_was_appended(self, storage: BaseStorage) -> None:
        """That includes empty and long fields, every character, and events by the thousand."""
        rule = RetryRule(max_retries=7)
        odd = TaskEnqueued("z\0\n\u2028é😀", "m:f", "", bytes(range(256)) * 1200, retry=rule)
        for events in ([odd], _story("a"), tasks(*map(str, range(16))), tasks(*["n"] * 70_000)):
            commit = await storage.append(events, at=1, actor="ä")
            assert commit.events == events
            assert await storage.read(commit.first_seq - 1) == [commit]

    @claim
    async def test_append_writes_all_of_its_events_or_none(self, storage: BaseStorage) -> None:
        """An event that cannot be encoded leaves nothing of its neighbours behind."""
        bad = TaskEnqueued("b", "m:f", "default", cast("bytes", object()))
        wrong = TaskEnqueued("b", "m:f", "default", cast("bytes", 1))  # encoded, but not read
        for event in (bad, wrong):
            with suppress(SerializationError):
                await storage.append([*tasks("a"), event, *tasks("c")], at=1, actor="me")
                raise AssertionError(f"an event that nobody could read was accepted: {event}")
        assert await storage.head() == Head()
        assert await storage.read(0) == []
        assert (await storage.append(tasks("d"), at=1, actor="me")).first_seq == 1

    @claim
    async def test_reader_never_sees_a_part_of_a_commit(self, storage: BaseStorage) -> None:
        """A handle reads while another one appends: what it gets are whole commits, in order."""
        sizes = [1, 700, 3, 1500, 2] * 8

        async def append_all() -> None:
            async with opened(storage.sibling()) as writer:
                for size in sizes:
                    await writer.append(tasks(*["n"] * size), at=1, actor="me")

        appending = asyncio.create_task(in_thread(append_all))
        seen: list[Commit] = []
        while len(seen) < len(sizes):
            seen += await storage.read(seen[-1].last_seq if seen else 0, 2000)
            await asyncio.sleep(0)
        await appending
        assert [len(commit.events) for commit in seen] == sizes
        _check_numbers(seen)

    @claim
    async def test_time_never_goes_back(self, storage: BaseStorage) -> None:
        """The clock of one process was set back, that of another is slow, a handle is new."""
        times = [(await storage.append(tasks("a"), at=at, actor="me")).at for at in (5, 9, 7)]
        async with opened(storage.sibling()) as other:
            times.append((await other.append(tasks("b"), at=8, actor="me")).at)
        times.append((await storage.append(tasks("c"), at=10, actor="me")).at)
        assert times == [5, 9, 9, 9, 10]
        assert [commit.at for commit in await read_all(storage)] == times

    @claim
    async def test_append_behind_another_place_than_expected_conflicts(
        self, storage: BaseStorage
    ) -> None:
        """The error names both places, and nothing was written."""
        first = await storage.append(tasks("a", "b"), at=1, actor="me", expected=0)
        async with opened(storage.sibling()) as other:
            for wrong in (0, 1, 3):
                conflict = await _conflict(other, wrong)
                assert (conflict.expected, conflict.found) == (wrong, 2)
            assert await read_all(other) == [first]
            second = await other.append(tasks("c"), at=1, actor="me", expected=2)
        assert await read_all(storage) == [first, second]

    @claim
    async def test_pages_follow_each_other(self, storage: BaseStorage) -> None:
        """A page ends with the commit that fills it, and has at least one if there is any."""
        sizes = [2, 3, 1, 10, 1, 1]
        commits = [await storage.append(tasks(*["n"] * n), at=1, actor="me") for n in sizes]
        for limit in range(1, sum(sizes) + 2):
            seen: list[Commit] = []
            while page := await storage.read(seen[-1].last_seq if seen else 0, limit):
                assert sum(len(commit.events) for commit in page[:-1]) < limit
                seen += page
            assert seen == commits
        assert await storage.read(commits[-1].last_seq) == []

    @claim
    async def test_history_of_a_task_is_its_events_alone(self, storage: BaseStorage) -> None:
        """Also the event by which its result expires, which is about many tasks at once."""
        story = _story("a")
        await storage.append([*tasks("b"), *story[:2]], at=1, actor="me")
        await storage.append(tasks("c"), at=2, actor="me")
        expired = ResultExpired(("c", "a"))
        await storage.append([*story[2:], QueuePaused("q"), expired], at=3, actor="you")
        found = await storage.read_task("a")
        assert [event for _, _, event in found] == [*story, expired]
        wanted = [(2, 1, "me"), (3, 1, "me"), (5, 3, "you"), (7, 3, "you")]
        assert [(seq, commit.at, commit.actor) for seq, commit, _ in found] == wanted
        assert await storage.read_task("d") == []

    @claim
    async def test_head_is_chained_to_everything_before_it(self, storage: BaseStorage) -> None:
        """The digest is that of `omniq.storage.encoding`, so that it is equal in all backends."""
        digest = Head().digest
        async with opened(storage.sibling()) as other:
            for number, events in enumerate([tasks("a"), _story("b"), tasks("c", "d")]):
                writer = (storage, other)[number % 2]
                commit = await writer.append(events, at=number, actor="me")
                digest = chain(digest, encode_commit(commit))
                assert await storage.head() == Head(commit.last_seq, commit.at, digest)
                assert await other.head() == Head(commit.last_seq, commit.at, digest)

    @claim
    async def test_handles_on_one_journal_take_turns(self, storage: BaseStorage) -> None:
        """Many tasks append through two handles at once: each commit is there, once and whole."""

        async def append(writer: BaseStorage, name: str) -> Commit:
            return await writer.append(tasks(name, name), at=1, actor=name)

        async with opened(storage.sibling()) as other:
            commits = await asyncio.gather(
                *(append((storage, other)[n % 2], str(n)) for n in range(40))
            )
            commits.sort(key=lambda commit: commit.first_seq)
            assert await read_all(storage) == commits == await read_all(other)
            _check_numbers(commits)

    @claim
    async def test_exclusive_section_is_one_turn(self, storage: BaseStorage) -> None:
        """Two handles count in the journal; whoever loses a turn sees the conflict and repeats."""

        async def count(counter: BaseStorage) -> None:
            done = 0
            while done < 10:  # noqa: PLR2004 - enough for some turns to be lost
                async with counter.exclusive():
                    commits = await read_all(counter)
                    with suppress(JournalConflict):
                        seq = commits[-1].last_seq if commits else 0
                        await counter.append(tasks(str(seq)), at=1, actor="me", expected=seq)
                        done += 1

        async with opened(storage.sibling()) as other:
            await asyncio.gather(count(storage), count(other))
            events = [event for commit in await read_all(other) for event in commit.events]
        assert events == tasks(*map(str, range(20)))

    @claim
    async def test_exclusive_section_ends_with_an_error_in_it(self, storage: BaseStorage) -> None:
        """After that, this handle and others append as if nothing had been."""
        with suppress(LookupError):
            async with storage.exclusive():
                raise LookupError
        async with opened(storage.sibling()) as other:
            await other.append(tasks("a"), at=1, actor="me")
            await storage.append(tasks("b"), at=1, actor="me")

    @claim
    async def test_wait_ends_when_another_handle_appends(self, storage: BaseStorage) -> None:
        """Whether that is in this thread or in another; and at once if it was long ago."""

        async def append_there() -> None:
            async with opened(storage.sibling()) as other:
                await other.append(tasks("b"), at=1, actor="me")

        async with opened(storage.sibling()) as other:
            waiting = asyncio.create_task(_wait_for(storage, 0))
            await settle()
            assert not waiting.done()
            await other.append(tasks("a"), at=1, actor="me")
            await waiting
            waiting = asyncio.create_task(_wait_for(storage, 1))
            await in_thread(append_there)
            await waiting
            await other.wait(1)

    @claim
    async def test_wait_may_be_given_up(self, storage: BaseStorage) -> None:
        """A cancelled wait leaves the handle as it was."""
        waiting = asyncio.create_task(_wait_for(storage, 0))
        await settle()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        async with opened(storage.sibling()) as other:
            waiting = asyncio.create_task(_wait_for(storage, 0))
            await settle()
            await other.append(tasks("a"), at=1, actor="me")
            await waiting

    @claim
    async def test_sync_makes_durable_what_anybody_appended(self, storage: BaseStorage) -> None:
        """`durable` never claims more than there is, and after `sync` at least what was asked."""
        async with opened(storage.sibling()) as other:
            for number in range(1, 4):
                commit = await storage.append(tasks("a"), at=1, actor="me")
                assert storage.durable <= number
                await other.sync(commit.last_seq)
                assert number <= other.durable <= number
            await storage.sync(3)
            assert storage.durable == other.durable

    @claim
    async def test_lazy_sync_leaves_nothing_to_a_power_cut(self, storage: BaseStorage) -> None:
        """`synced` is at most `durable`, and all that was written once that was asked for."""
        await storage.sync_lazily()
        for number in range(1, 4):
            await storage.append(tasks("a"), at=1, actor="me")
            assert storage.synced <= storage.durable <= number
        await storage.sync_lazily()
        assert storage.synced == storage.durable == 3  # noqa: PLR2004 - that many were appended

    @claim
    async def test_reserve_is_no_other_place_to_write_to(self, storage: BaseStorage) -> None:
        """Appends in the section are as all others; what it changes is a full disk."""
        await storage.append(tasks("a"), at=1, actor="me")
        with storage.reserve():
            second = await storage.append(tasks("b"), at=1, actor="me", expected=1)
        assert (await storage.append(tasks("c"), at=1, actor="me")).first_seq == second.last_seq + 1

    @claim
    async def test_sync_of_what_is_not_there_is_an_error(self, storage: BaseStorage) -> None:
        """It does not end the handle, because nothing went wrong on the disk."""
        await storage.append(tasks("a"), at=1, actor="me")
        with suppress(StorageError):
            await storage.sync(2)
            raise AssertionError("an event that does not exist was called durable")
        await storage.append(tasks("b"), at=1, actor="me")
        await storage.sync(2)

    @claim
    async def test_cancelled_append_is_whole_or_not_there(self, storage: BaseStorage) -> None:
        """Whenever the cancellation comes, and the handle goes on after it."""
        for rounds in range(12):
            before = await storage.head()
            appending = asyncio.create_task(storage.append(tasks("a", "b"), at=1, actor="me"))
            for _ in range(rounds):
                await asyncio.sleep(0)
            appending.cancel()
            with suppress(asyncio.CancelledError):
                await appending
            assert (await storage.head()).seq in {before.seq, before.seq + 2}
            await storage.append(tasks("c"), at=1, actor="me")
        _check_numbers(await read_all(storage))

    @claim
    async def test_reopened_journal_goes_on_where_it_ended(self, storage: BaseStorage) -> None:
        """A new handle and a reopened one find every commit, and continue numbers and time."""
        commits = [await storage.append(_story(str(n)), at=n, actor="me") for n in range(1, 40)]
        head = await storage.head()
        async with opened(storage.sibling()) as keeper:
            await keeper.sync(head.seq)
            await storage.close()
            await storage.open()
        async with opened(storage.sibling()) as other:
            for handle in (storage, other):
                assert await handle.head() == head
                assert await read_all(handle) == commits
            commits.append(await other.append(tasks("a"), at=3, actor="me"))
        _check_numbers(commits)
        assert await storage.read(head.seq) == commits[-1:]

    @claim
    async def test_open_and_close_may_be_called_twice(self, storage: BaseStorage) -> None:
        """The second call does nothing, also before the handle was ever open."""
        commit = await storage.append(tasks("a"), at=1, actor="me")
        await storage.open()
        assert await storage.read(0) == [commit]
        other = storage.sibling()
        await other.close()
        await other.open()
        assert await other.read(0) == [commit]
        await other.close()
        await other.close()

    @claim
    async def test_handle_that_is_not_open_refuses_work(self, storage: BaseStorage) -> None:
        """Before `open` and after `close`, every call is answered with `StorageClosed`."""
        other = storage.sibling()
        await _check_refusals(other)
        await other.open()
        await other.append(tasks("a"), at=1, actor="me")
        await other.close()
        await _check_refusals(other)
        assert (await storage.head()).seq == 1

    @claim
    async def test_sibling_works_in_the_loop_of_another_thread(self, storage: BaseStorage) -> None:
        """Both handles append and see each other's commits."""
        first = await storage.append(tasks("a"), at=1, actor="me")

        async def work_there() -> list[Commit]:
            async with opened(storage.sibling()) as other:
                await other.append(tasks("b"), at=2, actor="there")
                await other.sync(2)
                return await read_all(other)

        commits = await in_thread(work_there)
        assert commits == await read_all(storage)
        assert commits[0] == first

    @claim
    async def test_death_of_a_worker_is_claimed_only_if_it_is_certain(
        self, storage: BaseStorage
    ) -> None:
        """A worker that another handle holds the life of is alive, until it lets go of it."""
        async with opened(storage.sibling()) as other:
            await other.hold_life("w1")
            await other.hold_life("w2")
            for worker in ("w1", "w2"):
                assert not storage.is_dead(worker)
                assert not other.is_dead(worker)
            await other.drop_life("w1")
            assert storage.is_dead("w1") == self.sees_death
            assert not storage.is_dead("w2")
            await other.close()
            assert storage.is_dead("w2") == self.sees_death


# The suite's own words.


async def _wait_for(storage: BaseStorage, seq: int) -> None:
    while (await storage.head()).seq <= seq:
        await storage.wait(seq)


async def _conflict(storage: BaseStorage, expected: int) -> JournalConflict:
    try:
        await storage.append(tasks("x"), at=1, actor="me", expected=expected)
    except JournalConflict as conflict:
        return conflict
    raise AssertionError(f"an append behind {expected} was accepted at another place")


async def _check_refusals(storage: BaseStorage) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.append(tasks("x"), at=1, actor="me"),
        lambda: storage.read(0),
        lambda: storage.read_task("a"),
        storage.head,
        lambda: storage.sync(1),
        lambda: storage.wait(0),
    ]
    for number, call in enumerate(calls):
        with suppress(StorageClosed):
            await call()
            raise AssertionError(f"call {number} of {len(calls)} was answered without a journal")


def _check_numbers(commits: list[Commit]) -> None:
    seq, at = 0, 0
    for commit in commits:
        assert commit.first_seq == seq + 1
        assert commit.at >= at
        seq, at = commit.last_seq, commit.at


def _story(task_id: str) -> list[Event]:
    error = ErrorRecord("ValueError", "no", "Traceback: é", retryable=False)
    return [
        TaskStarted(task_id, 1, "w1"),
        TaskFailed(task_id, 1, "w1", error),
        TaskSucceeded(task_id, 2, "w1", b""),
    ]
