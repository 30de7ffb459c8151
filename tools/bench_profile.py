"""Where the time goes: one measure of the benchmark, under a profiler.

    python tools/bench_profile.py                       which measures there are
    python tools/bench_profile.py "drain file"          pyinstrument's tree: a sample each 0.5 ms
    python tools/bench_profile.py "drain file" --calls  cProfile's list: every call, by its own time

A sampled tree shows what is slow, a list of calls what happens more often than it should. The
list makes small functions look several times as slow as they are, and what other processes do
is in neither.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyinstrument import Profiler

from tools.bench import MEASURES
from tools.bench_floors import FULL, QUICK, Sizes

SAMPLE_SECONDS = 0.0005
LINES = 40


def sampled(measure: str, folder: Path, sizes: Sizes) -> None:
    """Print the tree of what was running, sample by sample."""
    profiler = Profiler(interval=SAMPLE_SECONDS, async_mode="disabled")
    with profiler:
        MEASURES[measure](folder, sizes)
    print(profiler.output_text(color=sys.stdout.isatty(), show_all=True))


def counted(measure: str, folder: Path, sizes: Sizes) -> None:
    """Print the functions in which most time was spent, with how often they were called."""
    profiler = cProfile.Profile()
    with profiler:
        MEASURES[measure](folder, sizes)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(LINES)


def main() -> None:
    """Profile what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("measure", nargs="?", help="such as 'drain file'; none: say which")
    parser.add_argument("--calls", action="store_true", help="count every call, with cProfile")
    parser.add_argument("--quick", action="store_true", help="the sizes of bench --quick")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on which disk (here)")
    options = parser.parse_args()
    if options.measure is None:
        print("\n".join(MEASURES))
        return
    if options.measure not in MEASURES:
        parser.error(f"there is no measure {options.measure!r}; it is one of {', '.join(MEASURES)}")
    sizes = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix=".profile-", dir=options.folder) as folder:
        (counted if options.calls else sampled)(options.measure, Path(folder), sizes)


if __name__ == "__main__":
    main()
