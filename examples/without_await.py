"""The blocking face: enqueue from threads, compute in processes, wait for all of it."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omniq import OmniQ, TaskStatus

folder = tempfile.TemporaryDirectory(prefix="omniq-example-")
oq = OmniQ(Path(folder.name) / "jobs.db")


@oq.task(executor="process", timeout=30)
def count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


def main() -> None:
    with oq, oq.worker(concurrency=2), ThreadPoolExecutor(4) as threads:
        handles = list(threads.map(count_primes.enqueue, (10, 100, 1_000, 10_000)))
        print("primes:", *(handle.result(timeout=30) for handle in handles))
        print(oq.stats().by_status[TaskStatus.SUCCESS], "tasks succeeded")


if __name__ == "__main__":
    with folder:
        main()

# Output:
# primes: 4 25 168 1229
# 4 tasks succeeded
