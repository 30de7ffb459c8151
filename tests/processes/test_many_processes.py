"""Several processes on one journal at once: the normal case."""

from collections import Counter

from omniq import TaskStatus
from omniq.core import events as ev

PRODUCER = """
import asyncio, sys
from app import note, oq

async def main(number: str, count: int) -> None:
    async with oq:
        for start in range(0, count, 50):
            await asyncio.gather(
                *(note.enqueue(f"{number}-{index}") for index in range(start, start + 50))
            )

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
PRODUCERS, EACH = 4, 2500


async def test_every_task_of_many_producers_runs_once_on_one_of_many_workers(
    processes, app
) -> None:
    workers = [processes.worker("--concurrency", "50") for _ in range(3)]
    producers = [processes.script(PRODUCER, str(n), str(EACH)) for n in range(PRODUCERS)]
    for producer in producers:
        assert producer.wait() == 0, producer.stdout.read()
    for task in await app.oq.list_tasks(limit=PRODUCERS * EACH):
        await app.oq.handle(task.id).result()
    assert all(worker.poll() is None for worker in workers)
    processes.stop()

    names = {f"{n}-{index}" for n in range(PRODUCERS) for index in range(EACH)}
    assert processes.traced() == Counter(names)
    stats = await app.oq.stats()
    assert stats.by_status[TaskStatus.SUCCESS] == PRODUCERS * EACH
    assert stats.workers == []

    kinds: Counter[type] = Counter()
    seq = 0
    while commits := await app.oq.storage.read(seq):
        seq = commits[-1].last_seq
        kinds.update(type(event) for commit in commits for event in commit.events)
    assert kinds[ev.TaskEnqueued] == kinds[ev.TaskStarted] == kinds[ev.TaskSucceeded] == 10_000


async def test_an_idle_worker_is_woken_by_another_process(processes, app) -> None:
    processes.worker()
    queue = await app.oq.engine()
    first = await app.note.enqueue("first")
    assert await first.result(timeout=20) != 0
    second = await app.note.enqueue("second")
    await second.result(timeout=5)
    task = queue.projection.tasks[second.id]
    # Far below any interval of polling; how far below is for the benchmark to say.
    assert task.run.started_at - task.created_at < 200_000


async def test_a_process_that_only_enqueues_never_reads_the_journal(processes, app) -> None:
    await app.note.enqueue_many([(str(n),) for n in range(100)])
    queue = await app.oq.engine()
    assert queue.projection.seq == 0
    await app.note.enqueue("one more")
    assert queue.projection.seq == 0
    assert (await app.oq.stats()).by_status[TaskStatus.PENDING] == 101
