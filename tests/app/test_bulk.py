"""What is enqueued in bulk is just what would be enqueued call by call."""

import asyncio
import uuid
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omniq import AsyncOmniQ
from omniq.clock import SystemEntropy
from omniq.core import events as ev
from omniq.core.ids import COUNTS
from omniq.core.projection import Projection
from omniq.errors import OmniqError, PayloadTooLarge
from omniq.orders import MAX_BATCH_EVENTS
from omniq.parts import PART_ITEMS
from omniq.serialization import Call, Codecs, Signature
from omniq.storage.memory import MemoryStorage
from omniq.testing import VirtualClock

LIMIT = 60
START_US = 1_800_000_000_123_456


def plain(number: int, text: str = "") -> None: ...


def keyword(number: int, *, text: str) -> None: ...


def anything(*values, **more) -> None: ...


def nothing() -> None: ...


functions = st.sampled_from([plain, keyword, anything, nothing])
values = st.one_of(
    st.integers(-(1 << 65), 1 << 65),  # msgpack has 64 bits
    st.booleans(),
    st.none(),
    st.binary(max_size=LIMIT),
    st.text(st.characters(codec=None), max_size=LIMIT // 2),  # lone surrogates, too
    st.lists(st.integers(), max_size=2),
)
good = st.tuples(st.integers(0, 9)) | st.tuples(st.integers(0, 9), st.text("ab", max_size=9))
some_calls = st.one_of(
    good,
    st.lists(values, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["number", "text", "other"]), values, max_size=3),
)


class Turns:
    """Counts the turns of the running event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._turn()

    def _turn(self) -> None:
        self.number += 1
        self._loop.call_soon(self._turn)


def one_by_one(codecs: Codecs, signature: Signature, calls: list[Call]) -> list[bytes]:
    return [
        codecs.encode_arguments(signature, (), dict(call))
        if isinstance(call, dict)
        else codecs.encode_arguments(signature, tuple(call), {})
        for call in calls
    ]


def outcome(encode, *args) -> tuple[type[Exception], str] | list[bytes]:
    try:
        return encode(*args)
    except OmniqError as error:
        return type(error), str(error)


@given(functions, st.lists(good, max_size=5) | st.lists(some_calls, max_size=5))
@example(plain, [(1,), (1 << 64,)])
@example(plain, [(1, "a"), (1, "\ud800")])
@example(plain, [(1,), (True,)])
@example(plain, [(1,), (1, "a")])
@example(nothing, [(), ()])
@example(plain, [(1, "a" * 100), (1, "a" * 200)])
@example(plain, [(1, "a" * 100), (1, "\ud800")])
def test_bulk_encodes_and_refuses_as_single_calls_do(function, calls):
    signature, codecs = Signature(function), Codecs("msgpack", LIMIT)
    together = outcome(codecs.encode_calls, signature, calls)
    apart = outcome(one_by_one, codecs, signature, calls)
    assert together == apart


def test_bulk_says_how_large_a_call_is():
    codecs = Codecs("msgpack", LIMIT)
    with pytest.raises(PayloadTooLarge, match=r"plain are 106 bytes, more than .*=60"):
        codecs.encode_calls(Signature(plain), [(1, "a"), (1, "a" * 100), (1, "a" * 900)])


@given(st.integers(0, (1 << 48) * 1000 - 1), st.integers(0, 600))
@example(1_767_225_600_123_456, len(COUNTS) + 1)
def test_ids_in_bulk_are_different_and_of_one_time(at, count):
    ids = list(islice(SystemEntropy().task_ids(at), count))
    assert len(set(ids)) == len(ids) == count
    assert sorted(ids[: len(COUNTS)]) == ids[: len(COUNTS)]
    for text in ids:
        made = uuid.UUID(text)
        assert str(made) == text
        assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, at // 1000)


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("name", ["journal", "jobs.db"])
async def test_calls_that_share_a_commit_have_ids_of_its_time_and_in_its_order(
    tmp_path, name, is_loaded
):
    clock = VirtualClock(START_US)
    async with AsyncOmniQ(tmp_path / name, clock=clock) as oq:
        if is_loaded:
            await oq.stats()
        task = oq.task(plain)
        calls = [task.enqueue(1), task.enqueue_many([(2,), (3,)]), task.enqueue(4)]
        first, others, last = await asyncio.gather(*calls)
        (commit,) = await oq.storage.read(0)
        assert (await oq.storage.head()).at == START_US
        ids = [handle.id for handle in (first, *others, last)]
        assert [event.task_id for event in commit.events] == sorted(ids) == ids
        for text in ids:
            assert uuid.UUID(text).int >> 80 == START_US // 1000


@pytest.mark.parametrize("name", ["journal", None])
async def test_between_two_commits_the_event_loop_goes_on(tmp_path, monkeypatch, name):
    async with AsyncOmniQ("memory://" if name is None else tmp_path / name) as oq:
        turns, append = Turns(), oq.storage.append
        commits = list[int]()

        async def noted(*args, **options):
            commits.append(turns.number)
            return await append(*args, **options)

        monkeypatch.setattr(oq.storage, "append", noted)
        task = oq.task(plain)
        await asyncio.gather(*(task.enqueue_many([(1,)] * MAX_BATCH_EVENTS) for _ in range(3)))
        assert len(commits) == len(set(commits)) == 3


@pytest.mark.parametrize("name", ["journal", None])
async def test_between_tasks_and_their_commit_a_timer_of_the_host_has_its_turn(
    tmp_path, monkeypatch, name
):
    async with AsyncOmniQ("memory://" if name is None else tmp_path / name) as oq:
        turns, append = Turns(), oq.storage.append
        ran, waited = list[int](), list[int]()

        async def note() -> None:
            ran.append(turns.number)

        async def noted(*args, **options):
            if ran:  # a timer is heard in one turn, and who waits for it goes on in the next
                waited.append(turns.number - ran[-1])
                ran.clear()
            return await append(*args, **options)

        task = oq.task(note)
        await task.enqueue_many([()] * 12)
        monkeypatch.setattr(oq.storage, "append", noted)
        await oq.worker(concurrency=4).drain()
        assert len(waited) == 3
        assert min(waited) >= 2


MANY = 3 * PART_ITEMS + 1


def folded(commits) -> Projection:
    state = Projection()
    for commit in commits:
        state.apply(commit)
    return state


async def state_of(oq: AsyncOmniQ) -> Projection:
    return await (await oq.engine()).refresh()


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
async def test_many_tasks_are_one_commit_which_every_process_takes_in_a_part_at_a_time(
    tmp_path, monkeypatch, name
):
    async with AsyncOmniQ(tmp_path / name) as oq, AsyncOmniQ(tmp_path / name) as follower:
        for app in (oq, follower):
            await app.stats()
        turns, apply = Turns(), Projection.apply_events
        parts = list[tuple[int, int]]()

        def noted(state, events) -> None:
            parts.append((turns.number, len(events)))
            apply(state, events)

        monkeypatch.setattr(Projection, "apply_events", noted)
        handles = await oq.task(plain).enqueue_many([(number,) for number in range(MANY)])
        states = [await state_of(oq), await state_of(follower)]
        assert [size for _, size in parts] == [PART_ITEMS, PART_ITEMS, PART_ITEMS, 1] * 2
        assert len({number for number, _ in parts}) == len(parts)
        (commit,) = await oq.storage.read(0)
        assert [event.task_id for event in commit.events] == [handle.id for handle in handles]
        assert states[0].state() == states[1].state() == folded([commit]).state()


@pytest.mark.parametrize("turns", range(8))
async def test_who_gives_up_while_many_tasks_are_taken_in_leaves_the_rest_for_the_next(
    tmp_path, turns
):
    many = [ev.TaskEnqueued(str(number), "m:f", "q", b"") for number in range(MANY)]
    async with AsyncOmniQ(tmp_path / "journal") as oq, AsyncOmniQ(tmp_path / "journal") as follower:
        state = await state_of(follower)
        await oq.storage.append(many, at=1, actor="a")
        looking = asyncio.create_task(follower.stats())  # begins before the news is heard
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 2:  # turns of the loop: it has begun, and has not finished
            assert 0 < state.seq < MANY
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await oq.task(plain).enqueue(1)
        commits = await oq.storage.read(0, 2 * MANY)
        assert [len(commit.events) for commit in commits] == [MANY, 1]
        assert (await state_of(follower)).state() == folded(commits).state()


async def test_where_others_may_append_meanwhile_many_tasks_come_behind_what_they_appended():
    storage = MemoryStorage()
    async with AsyncOmniQ(storage) as oq, AsyncOmniQ(storage.sibling()) as other:
        for app in (oq, other):
            await app.stats()
        many = asyncio.create_task(oq.task(plain).enqueue_many([(0,)] * MANY))
        while not many.done():
            await other.task(plain).enqueue(1)
        commits = await storage.read(0, 10 * MANY)
        sizes = [len(commit.events) for commit in commits]
        assert sizes.index(MANY) > 0
        for app in (oq, other):
            assert (await state_of(app)).state() == folded(commits).state()
