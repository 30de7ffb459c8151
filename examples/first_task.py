"""A task, a worker in the same process, a result, and what the journal says about it."""

import asyncio
import tempfile

from omniq import AsyncOmniQ

journal = tempfile.TemporaryDirectory(prefix="omniq-example-")
oq = AsyncOmniQ(journal.name)


@oq.task
async def greet(name: str, greeting: str = "Hello") -> str:
    return f"{greeting}, {name}!"


async def main() -> None:
    async with oq, oq.worker():
        handle = await greet.enqueue("Ada", greeting="Good morning")
        print(await handle.result(timeout=5))
        for event in await handle.history():
            print(event.kind)


if __name__ == "__main__":
    with journal:
        asyncio.run(main())

# Output:
# Good morning, Ada!
# task.enqueued
# task.started
# task.succeeded
