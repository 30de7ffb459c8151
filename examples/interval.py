"""A task that runs again and again until its series is cancelled."""

import asyncio

from omniq import AsyncOmniQ, TaskStatus

oq = AsyncOmniQ("memory://")
runs = 0
ENOUGH = 3
enough_runs = asyncio.Event()


@oq.task
async def tick() -> int:
    global runs  # noqa: PLW0603 - a counter is all that this example is about
    runs += 1
    if runs == ENOUGH:
        enough_runs.set()
    return runs


async def main() -> None:
    async with oq, oq.worker():
        first = await tick.options(interval=0.05).enqueue()
        await enough_runs.wait()
        await first.cancel("that is enough")

    async with oq:
        for task in reversed(await oq.list_tasks()):
            print(task.status, task.schedule.series_id == first.id)
        stats = await oq.stats()
        print("runs that are still to come:", stats.by_status[TaskStatus.PENDING])


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# SUCCESS True
# SUCCESS True
# ...
# runs that are still to come: 0
