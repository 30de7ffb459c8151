"""What a backend owes beyond `StorageConformance` if it keeps snapshots and can drop history."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from omniq.errors import StorageError
from omniq.storage.base import Head
from omniq.testing.claims import claim, opened, read_all, tasks
from omniq.testing.conformance import StorageConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omniq.core.events import Commit
    from omniq.storage.base import BaseStorage, Bookmark

__all__ = ("SnapshotConformance",)

PARTS = [b"", b"a", bytes(range(256)) * 5000, b"z" * 3_000_000, b"end"]
AT_ONCE = 1 << 62  # a time after which nothing was appended


class SnapshotConformance(StorageConformance):
    """The contract of a backend that keeps snapshots: subclass it as `Test…`, as its base."""

    @claim
    async def test_new_journal_has_no_snapshot(self, storage: BaseStorage) -> None:
        """Nor has its history a beginning other than nothing."""
        assert await storage.load_snapshot() is None
        assert await storage.snapshot_seq() == 0
        assert await storage.beginning() == Head()

    @claim
    async def test_snapshot_is_read_as_it_was_saved(self, storage: BaseStorage) -> None:
        """By the handle that saved it, by another one, and after opening again."""
        bookmark = await _append(storage, "a", "b")
        assert (bookmark.seq, bookmark.digest) == (2, (await storage.head()).digest)
        await storage.save_snapshot(bookmark, _parts(*PARTS))
        assert storage.durable >= bookmark.seq
        await _check(storage, bookmark, PARTS)
        async with opened(storage.sibling()) as other:
            await _check(other, bookmark, PARTS)
        await storage.close()
        await storage.open()
        await _check(storage, bookmark, PARTS)

    @claim
    async def test_reading_goes_on_behind_a_snapshot(self, storage: BaseStorage) -> None:
        """Also behind one that was taken while others appended."""
        bookmark = await _append(storage, "a", "b")
        tail = [await storage.append(tasks(name), at=1, actor="me") for name in "cde"]
        await storage.save_snapshot(bookmark, _parts(b"x"))
        async with opened(storage.sibling()) as other:
            await _check(other, bookmark, [b"x"])
            assert await read_all(other, bookmark.seq) == tail

    @claim
    async def test_newest_snapshot_and_the_one_before_are_kept(self, storage: BaseStorage) -> None:
        """In whatever order they were saved, and no others."""
        marks = [await _append(storage, name) for name in "abcd"]
        for number in (1, 0, 3, 2):
            await storage.save_snapshot(marks[number], _parts(b"%d" % number))
        await _check(storage, marks[3], [b"3"])
        before = await storage.load_snapshot(before=marks[3].seq)
        assert before is not None
        assert (before.bookmark, before.parts) == (marks[2], [b"2"])
        assert await storage.load_snapshot(before=marks[2].seq) is None

    @claim
    async def test_snapshot_that_was_not_finished_does_not_count(
        self, storage: BaseStorage
    ) -> None:
        """Whoever takes it fails half-way; the one before stays, and the next one works."""

        async def failing() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 1_000_000
            raise LookupError

        first, second = await _append(storage, "a"), await _append(storage, "b")
        await storage.save_snapshot(first, _parts(b"first"))
        with suppress(LookupError):
            await storage.save_snapshot(second, failing())
            raise AssertionError("a snapshot without its end was saved")
        await _check(storage, first, [b"first"])
        await storage.save_snapshot(second, _parts(b"second"))
        await _check(storage, second, [b"second"])

    @claim
    async def test_history_is_dropped_only_behind_two_snapshots(self, storage: BaseStorage) -> None:
        """Never beyond the older one, a time or a number that the owner names."""
        commits = await _grow(storage, 40)
        assert await storage.drop_history(before=AT_ONCE, until=40) == Head()
        await _snapshot_at(storage, commits[19])
        assert await storage.drop_history(before=AT_ONCE, until=40) == Head()
        await _grow(storage, 1)
        await _snapshot_at(storage, commits[29])
        assert await storage.drop_history(before=AT_ONCE, until=0) == Head()
        assert await storage.drop_history(before=commits[0].at, until=40) == Head()
        beginning = await storage.drop_history(before=commits[9].at, until=40)
        assert beginning.seq <= commits[8].last_seq
        beginning = await storage.drop_history(before=AT_ONCE, until=40)
        assert beginning.seq <= commits[19].last_seq
        assert await storage.beginning() == beginning
        kept = await read_all(storage, beginning.seq)
        assert kept[:-1] == [commit for commit in commits if commit.first_seq > beginning.seq]

    @claim
    async def test_what_was_dropped_cannot_be_read_and_nothing_else_changes(
        self, storage: BaseStorage
    ) -> None:
        """Appending, the chain, snapshots and a task's remaining history go on."""
        commits = await _grow(storage, 60)
        for number in (40, 50):
            await _snapshot_at(storage, commits[number])
        head = await storage.head()
        beginning = await storage.drop_history(before=AT_ONCE, until=60)
        for handle in (storage, storage.sibling()):
            await handle.open()
            assert await handle.head() == head
            assert await handle.beginning() == beginning
            if beginning.seq:
                with suppress(StorageError):
                    await handle.read(0)
                    raise AssertionError("events that were dropped are there")
            assert await handle.read_task("t60") == [(60, commits[59], commits[59].events[0])]
            snapshot = await handle.load_snapshot()
            assert snapshot is not None
            tail = await read_all(handle, snapshot.bookmark.seq)
            assert tail == commits[51:]
            if handle is not storage:
                await handle.close()
        assert (await storage.append(tasks("z"), at=1, actor="me")).first_seq == head.seq + 1

    @claim
    async def test_others_append_while_a_snapshot_is_saved(self, storage: BaseStorage) -> None:
        """Nobody waits for the end of it."""
        go_on = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"x" * 2_000_000
            await go_on.wait()
            yield b"y"

        bookmark = await _append(storage, "a")
        async with opened(storage.sibling()) as other:
            saving = asyncio.create_task(storage.save_snapshot(bookmark, slowly()))
            theirs = await other.append(tasks("b"), at=1, actor="me")
            ours = await storage.append(tasks("c"), at=1, actor="me")
            assert ours.first_seq - 1 == theirs.first_seq == bookmark.seq + 1
            go_on.set()
            await saving
            await _check(other, bookmark, [b"x" * 2_000_000, b"y"])


async def _append(storage: BaseStorage, *ids: str) -> Bookmark:
    """Append a commit and return the place behind it."""
    commit = await storage.append(tasks(*ids), at=1, actor="me")
    bookmark = await storage.bookmark(commit.last_seq)
    assert bookmark is not None, "a backend that keeps snapshots has bookmarks"
    return bookmark


async def _grow(storage: BaseStorage, count: int) -> list[Commit]:
    """Append commits of one event, each later than the one before."""
    seq = (await storage.head()).seq
    return [
        await storage.append(tasks(f"t{number}"), at=number, actor="me")
        for number in range(seq + 1, seq + count + 1)
    ]


async def _snapshot_at(storage: BaseStorage, commit: Commit) -> None:
    """Save a snapshot at a commit, as a handle does that has just read it."""
    async with opened(storage.sibling()) as handle:
        seq = (await handle.beginning()).seq
        while seq < commit.last_seq:
            seq = (await handle.read(seq, 1))[0].last_seq
        bookmark = await handle.bookmark(seq)
        assert bookmark is not None
        await handle.save_snapshot(bookmark, _parts(b"state"))


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _check(storage: BaseStorage, bookmark: Bookmark, parts: list[bytes]) -> None:
    assert await storage.snapshot_seq() == bookmark.seq
    snapshot = await storage.load_snapshot()
    assert snapshot is not None
    assert snapshot.bookmark == bookmark
    assert snapshot.parts == parts
