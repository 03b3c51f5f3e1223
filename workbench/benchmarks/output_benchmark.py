"""Measures how fast the lines of very long output are taken in, searched and filtered, beside what does less.

No cloud and no page take part: it is what a notebook's kernel does for the page that shows a run.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from modal_app.contract.events import StreamEvent
from workbench.benchmarks.bare_processes import TIMEOUT_S
from workbench.benchmarks.figures import Figure, Samples
from workbench.runs.output_index import OutputIndex
from workbench.runs.row_selection import Matching

LINES = 2_000_000
_TOGETHER = 1000  # lines in an event
_ALONE = 200_000  # events of one line each
Work = Callable[[], object]


def measure(repeat: int) -> Iterator[Figure]:
    """Yield the figures of LINES lines, and of _ALONE events."""
    count = max(3, repeat // 5)
    events = _events(LINES, _TOGETHER)
    text = "".join(event.text for event in events)
    index = OutputIndex(events)
    name = f"{LINES:,} lines, taken in"
    yield _compared(name, count, lambda: OutputIndex(events), ("str.split", lambda: text.split("\n")))
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
        path = Path(directory) / "output.txt"
        path.write_text(text)
        for name, sought in (
            ("a search for one of them", f"LINE {LINES - 7} OF"),
            ("a search for what is in each", "LINE"),
        ):
            grep = partial(_grep, path, sought)
            yield _compared(name, count, partial(_search, index, sought), ("grep -i", grep))
    alone = _events(_ALONE, 1)
    name = f"{_ALONE:,} events of a line each, taken in"
    bare = ("a list of their texts", lambda: [one.text for one in alone])
    yield _compared(name, count, lambda: OutputIndex(alone), bare)


def _compared(name: str, count: int, ours: Work, baseline: tuple[str, Work]) -> Figure:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for work, times in zip((ours, baseline[1]), taken, strict=True):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return Figure(name, "s", "less", Samples("index", tuple(taken[0])), (Samples(baseline[0], tuple(taken[1])),))


def _events(lines: int, together: int) -> list[StreamEvent]:
    return [
        StreamEvent(
            run_id="r",
            seq=start // together + 1,
            at_ms=1,
            elapsed_ms=start,
            channel="stdout",
            text="".join(f"line {number} of {lines}\n" for number in range(start, start + together)),
        )
        for start in range(0, lines, together)
    ]


def _search(index: OutputIndex, sought: str) -> int:
    hits = Matching(index, [sought])
    while not hits.whole:
        hits.advance(1)
    return hits.end


def _grep(path: Path, sought: str) -> None:
    command = ["grep", "--ignore-case", "--fixed-strings", "--count", sought, str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)
