"""A task that fails twice before it works, and one that fails for good."""

import asyncio

from omniq import AsyncOmniQ, RetryPolicy, TaskFailed, current_task

oq = AsyncOmniQ("memory://")
SOON = RetryPolicy(max_retries=3, base_delay=0.01, never_on=(ValueError,))
WORKS_AT = 3


@oq.task(retry=SOON)
async def fetch(url: str) -> str:
    attempt = current_task().attempt
    if attempt < WORKS_AT:
        raise ConnectionError(f"{url} does not answer")
    return f"{url} answered attempt {attempt}"


@oq.task(retry=SOON)
async def parse(text: str) -> int:
    return int(text)


async def main() -> None:
    async with oq, oq.worker():
        fetched = await fetch.enqueue("https://example.com")
        print(await fetched.result(timeout=5))
        for event in await fetched.history():
            print("   ", event.kind)

        parsed = await parse.enqueue("many")
        try:
            await parsed.result(timeout=5)
        except TaskFailed as failure:
            error = failure.error
            print(f"{error.error_type} after {error.retry_count} retries: {error.message}")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# https://example.com answered attempt 3
#     task.enqueued
#     task.started
#     task.retried
#     task.started
#     task.retried
#     task.started
#     task.succeeded
# ValueError after 0 retries: invalid literal for int() with base 10: 'many'
