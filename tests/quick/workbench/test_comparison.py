"""Two runs are compared channel by channel: how their output was cut and interleaved is no difference."""

import random

import pytest

from tests.quick.workbench.test_bisection import ACCEPTED, DONE, RUNNING, Part, out, run, tool
from workbench.runs.comparison import Comparison

STDOUT = "".join(f"row {n}\n" for n in range(30))
STDERR = 'Traceback (most recent call last):\n  File "/tmp/job.py", line 5, in <module>\n    a(4)\nValueError: no\n'


def cut(seed: int, *texts: tuple[str, str]) -> list[Part]:
    """The channels' texts in pieces, interleaved at random; each channel keeps its order."""
    dice = random.Random(seed)
    left = {channel: text for channel, text in texts if text}
    parts = []
    while left:
        channel = dice.choice(sorted(left))
        size = dice.randint(1, 12)
        parts.append(out(left[channel][:size], channel))
        left[channel] = left[channel][size:]
        left = {name: text for name, text in left.items() if text}
    return parts


def differences(one: list[Part], other: list[Part]) -> list[tuple[str, str, str]]:
    """The rows of the events that differ."""
    rows = Comparison(run(ACCEPTED, RUNNING, *one, DONE), run(ACCEPTED, RUNNING, *other, DONE)).events()
    return [(row.name, row.left, row.right) for row in rows if row.verdict != "same"]


@pytest.mark.parametrize("seed", range(8))
def test_how_channels_were_interleaved_is_no_difference(seed: int) -> None:
    texts = ("stdout", STDOUT), ("stderr", STDERR)
    assert not differences(cut(seed, *texts), cut(seed + 100, *texts))


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_differs_is_the_only_difference(seed: int) -> None:
    changed = STDOUT.replace("row 17", "row seventeen")
    found = differences(
        cut(seed, ("stdout", STDOUT), ("stderr", STDERR)), cut(seed + 9, ("stdout", changed), ("stderr", STDERR))
    )
    assert found == [("stdout", "row 17", "row seventeen")]


def test_what_only_one_run_says_is_told_with_its_channel() -> None:
    assert differences([out("a\nb\n")], [out("a\n")]) == [("stdout", "b", "")]
    assert differences([], [out("oh", "stderr"), tool("Bash", command="ls")]) == [
        ("stderr", "", "oh"),
        ("claude", "", 'assistant/tool: → Bash ls {   "command": "ls" }'),
    ]
    assert differences([out("é\r\n")], [out("e\r\n")]) == [("stdout", "é", "e")]


def test_a_long_output_is_compared_as_far_as_it_is_bounded() -> None:
    many = out("".join(f"{n}\n" for n in range(5000)))
    assert not differences([many], [many])
    assert differences([many], [out(str(many[1]["text"]) + "more\n")]) == [
        ("stdout", "… 3000 more lines", "… 3001 more lines")
    ]
