"""Plant known bugs in a copy of OmniQ, one by one, and see that the repository's checks find them.

    python tools/mutants.py                 all of them
    python tools/mutants.py fence           those with this word in their name

A check that finds nothing when something is wrong is worth nothing. Each mutant says which edit
makes it and which checks should find it; the first that does is reported. An edit that does not fit
the code any more is an error: the list has to follow the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("omniq", "tests", "tools", "docs", "examples")
LIMIT_SECONDS = 300

SIMULATION = ("python", "tools/simulate.py", "--first", "1", "--seeds", "400")
CRASHES = ("pytest", "tests/storage/test_every_crash.py")
DAMAGE = ("pytest", "tests/storage/test_torn_and_rotten.py", "tests/storage/test_every_damage.py")
MACHINE = ("pytest", "tests/core/test_machine.py")
DEATHS = ("pytest", "tests/processes/test_death.py")
UPKEEP = ("pytest", "tests/app/test_upkeep.py")
TRANSITIONS = ("pytest", "tests/core/test_transitions.py")
ENGINE = ("pytest", "tests/simulation/test_engine.py")


class Mutant(NamedTuple):
    """A bug: a text of a file that stands there once, what it becomes, and who should notice."""

    name: str
    file: str
    old: str
    new: str
    checks: tuple[tuple[str, ...], ...]


MUTANTS = (
    Mutant(
        "acknowledged before it is synced",
        "omniq/syncing.py",
        "        if seq <= self._storage.durable:\n            _answer(waiters)",
        "        if seq >= 0:\n            _answer(waiters)",
        (SIMULATION,),
    ),
    Mutant(
        "no directory is synced",
        "omniq/storage/disk.py",
        "        self.rename(temporary, path)\n        self.sync_directory(path.parent)",
        "        self.rename(temporary, path)",
        (CRASHES, SIMULATION),
    ),
    Mutant(
        "the old segment is not synced before a new one",
        "omniq/storage/file.py",
        "            await self._sync(end.seq)\n",
        "            self._durable = end.seq\n",
        (CRASHES, SIMULATION),
    ),
    Mutant(
        "no fence for outcomes",
        "omniq/core/task.py",
        "            self.status is TaskStatus.RUNNING\n            and self.attempt == attempt\n"
        "            and self.run.worker == worker\n",
        "            self.status is TaskStatus.RUNNING\n",
        (MACHINE, SIMULATION),
    ),
    Mutant(
        "a lease without a look at the lock",
        "omniq/worker/liveness.py",
        "RENEWALS_PER_LEASE = 3",
        "RENEWALS_PER_LEASE = 0.1",
        (SIMULATION, DEATHS),
    ),
    Mutant(
        "a dead worker is only seen by its lease",
        "omniq/worker/liveness.py",
        "            if self._shares_our_kernel(worker) and self._storage.is_dead(worker.id):",
        "            if False and self._storage.is_dead(worker.id):",
        (DEATHS,),
    ),
    Mutant(
        "no checksum of the frame's header",
        "omniq/storage/framing.py",
        "    if stored != computed or magic != FRAME_MAGIC:",
        "    if magic != FRAME_MAGIC:",
        (DAMAGE,),
    ),
    Mutant(
        "damage below the watermark counts as torn",
        "omniq/storage/ends.py",
        "max(position.durable, _highest_watermark(segment, offset))",
        "0",
        (DAMAGE,),
    ),
    Mutant(
        "a torn end is not cut off",
        "omniq/storage/ends.py",
        "    segment.cut(tear.offset)\n",
        "",
        (CRASHES, DAMAGE),
    ),
    Mutant(
        "what lies behind a blank header is not looked at",
        "omniq/storage/ends.py",
        "segment.written_until(position.offset) > position.offset:",
        "False:",
        (CRASHES, DAMAGE),
    ),
    Mutant(
        "room that was half made is kept",
        "omniq/storage/segments.py",
        "        segment.cut(end.offset)\n        if not is_no_room",
        "        if not is_no_room",
        (("pytest", "tests/storage/test_room.py"),),
    ),
    Mutant(
        "a snapshot says the event before",
        "omniq/core/snapshot.py",
        "                state.seq, state.at = frame.seq, frame.at",
        "                state.seq, state.at = frame.seq - 1, frame.at",
        (MACHINE, UPKEEP),
    ),
    Mutant(
        "a snapshot without the last task",
        "omniq/core/snapshot.py",
        "        self._tasks = tuple(state.tasks.values())",
        "        self._tasks = tuple(state.tasks.values())[:-1]",
        (ENGINE, MACHINE),
    ),
    Mutant(
        "a long line runs backwards",
        "omniq/core/lane.py",
        "list(reversed(self._parts.popleft()))",
        "list(self._parts.popleft())",
        (("pytest", "tests/core/test_lane.py"),),
    ),
    Mutant(
        "a sweep of a long line drops what counts",
        "omniq/core/lane.py",
        "return [task for task in entries if tasks.get(task.id) is task]",
        "return [task for task in entries if tasks.get(task.id) is task][1:]",
        (("pytest", "tests/core/test_lane.py"),),
    ),
    Mutant(
        "a snapshot before its events are synced",
        "omniq/storage/history.py",
        "        await self._sync(bookmark.seq)\n",
        "",
        (CRASHES, SIMULATION),
    ),
    Mutant(
        "history is dropped behind one snapshot",
        "omniq/storage/history.py",
        "        return seqs[0]\n",
        "        return seqs[-1]\n",
        (("pytest", "tests/storage/test_conformance.py"),),
    ),
    Mutant(
        "tasks that ended in one row share the first one's run",
        "omniq/core/projection.py",
        "            if old.run is not before or event.codec != after.codec:",
        "            if before is None:",
        (TRANSITIONS,),
    ),
    Mutant(
        "a row of starts is all of one worker",
        "omniq/core/projection.py",
        "                if run is None or worker != run.worker:",
        "                if run is None:",
        (TRANSITIONS,),
    ),
    Mutant(
        "who gives up loses the rest of a large commit",
        "omniq/following.py",
        "        if state.seq - before >= READ_EVENTS:\n            await asyncio.sleep(0)\n",
        "        if state.seq - before >= READ_EVENTS:\n            left = [*ahead]\n"
        "            ahead.clear()\n            await asyncio.sleep(0)\n"
        "            ahead.extend(left)\n",
        (("pytest", "tests/app/test_bulk.py"),),
    ),
    Mutant(
        "an interval has no next run",
        "omniq/core/decide.py",
        "    return [succeeded, *_next_run(state, task, now)]",
        "    return [succeeded]",
        (MACHINE,),
    ),
    Mutant(
        "an interval goes on after it was cancelled",
        "omniq/core/decide.py",
        "    if not spec.interval_us or task.run.cancel_requested:",
        "    if not spec.interval_us:",
        (MACHINE,),
    ),
    Mutant(
        "a batch is written in two",
        "omniq/committing.py",
        "                durable = any(order.durable for order in batch)\n",
        "                durable = any(order.durable for order in batch)\n"
        "                if len(events) > 1:\n"
        "                    await self._storage.append("
        "events[:1], at=at, actor=self._actor, expected=seq)\n"
        "                    events, seq = events[1:], seq + 1\n",
        (ENGINE, SIMULATION),
    ),
    Mutant(
        "one attempt too many",
        "omniq/core/decide.py",
        "    if again and task.attempt <= task.spec.retry.max_retries:",
        "    if again and task.attempt <= task.spec.retry.max_retries + 1:",
        (MACHINE, SIMULATION),
    ),
    Mutant(
        "a new segment is not noticed",
        "omniq/storage/file.py",
        "(hint.seq, hint.segment) > (end.seq, end.segment.first_seq)",
        "hint.seq > end.seq",
        (SIMULATION, ("pytest", "tests/storage/test_faults.py")),
    ),
    Mutant(
        "a sync counts for what was written after it began",
        "omniq/storage/local.py",
        "                await self._sync_thread.join()\n",
        "                await self._sync_thread.join()\n"
        "                self._durable = max(self._durable, seq)\n",
        (SIMULATION, ("pytest", "tests/storage/test_syncs.py")),
    ),
    Mutant(
        "a failed sync is forgotten",
        "omniq/storage/file.py",
        "            self._rendezvous.suspect()\n",
        "            self._rendezvous.trust()\n",
        (("pytest", "tests/storage/test_faults.py"), SIMULATION),
    ),
)


def main() -> int:
    """Plant the mutants, and return 1 if one of them survives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("word", nargs="?", default="", help="only those with this in their name")
    options = parser.parse_args()
    survivors: list[str] = []
    chosen = [mutant for mutant in MUTANTS if options.word in mutant.name]
    with tempfile.TemporaryDirectory(prefix="omniq-mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "mkdocs.yml"):
            shutil.copy(path, copy)
        for mutant in chosen:
            caught_by = plant(mutant, copy)
            print(f"{mutant.name:<48} {caught_by or 'SURVIVES'}", flush=True)
            if caught_by is None:
                survivors.append(mutant.name)
    print(f"{len(chosen)} mutants, {len(survivors)} survive")
    return 1 if survivors else 0


def plant(mutant: Mutant, copy: Path) -> str | None:
    """Make an edit, run the checks until one fails, and take the edit back."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.name}: its text is {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        for check in mutant.checks:
            if not passes(check, copy):
                return " ".join(check)
    finally:
        path.write_text(text, encoding="utf-8")
    return None


def passes(check: tuple[str, ...], copy: Path) -> bool:
    """Run a check on the copy; one that never ends has noticed something, too."""
    program, *arguments = check
    more = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"] if program == "pytest" else []
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            [sys.executable, *more, *arguments],
            cwd=copy,
            env=environment,
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
