"""Whatever happens to a journal's bytes: the tool says so, keeps what it can, makes no nonsense.

The damage is drawn from a fixed seed, which a failure names, so each run tries the same.
"""

import random
import shutil
import sqlite3

import pytest

from omniq.core import events as ev
from omniq.core.projection import Projection
from tests.tools.journals import CLIENT, STORY, A, C, read, rewrite

STORY_TWICE = [
    *STORY,
    (9, CLIENT, [ev.QueueResumed("images"), ev.TaskCancelled(C)]),
    *[(10, CLIENT, [ev.TaskEnqueued(f"t{n}", "f", "q", b"\x92\x90\x80")]) for n in range(20)],
]  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A journal of each kind; the database is in one file, so that damage hits its pages."""
    folder = tmp_path_factory.mktemp("originals")
    rewrite(folder / "journal", STORY_TWICE, segment_bytes=1200)
    rewrite(folder / "journal.db", STORY_TWICE)
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder


def damaged(original, place, draw):
    """Copy a journal, and damage one of its files in one of many ways."""
    if original.is_dir():
        shutil.copytree(original, place, ignore=shutil.ignore_patterns("live", "wake", "*.lock"))
        path = draw.choice(sorted(place.glob("*.seg")))
    else:
        path = shutil.copyfile(original, place)
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    length = min(draw.choice([1, 1, 4, 40, 512, 4096]), len(data) - start)
    match draw.randrange(6):
        case 0 | 1:
            data[start] ^= 1 << draw.randrange(8)
        case 2:
            data[start : start + length] = draw.randbytes(length)
        case 3:
            data[start : start + length] = bytes(length)
        case 4:
            del data[start : start + length]
        case 5:
            other = draw.randrange(len(data) - length + 1)
            data[start : start + length] = data[other : other + length]
    path.write_bytes(data)
    return place


@pytest.mark.parametrize("name", ["journal", "journal.db"])
@pytest.mark.parametrize("seed", range(6))
def test_no_damage_is_too_much(originals, name, seed, tmp_path, run):
    """It is an error of its own kind, or a new journal that verifies, folds and is a subset."""
    written = read(originals / name).events()
    for number in range(10):
        draw = random.Random(f"{seed} {number}")
        place = damaged(originals / name, tmp_path / f"{number}-{name}", draw)
        target = tmp_path / f"new-{number}"
        results = {
            command: run(command, place, *rest).status
            for command, *rest in (
                ["verify"], ["recover", target], ["summary"], ["explain", A], ["export"], ["diff"],
            )
        }  # fmt: skip
        assert set(results.values()) <= {0, 1, 2}
        assert (results["recover"] != 2) == target.exists(), (
            seed,
            number,
            run("recover", place, target),
        )
        if not target.exists():
            continue
        if results["verify"] == 0:
            assert results["recover"] == 0, (seed, number)
        assert run("verify", target).status == 0, (seed, number)
        content = read(target)
        state = Projection()
        for commit in content.commits:
            state.apply(commit)
        rest = iter(written)
        for at, actor, event in content.events():
            assert actor == "recover" or (at, actor, event) in rest, (seed, number)
