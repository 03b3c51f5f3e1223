"""What a terminal shows of a run whose channels speak in turn: every line whole, in a pipe and on a terminal."""

import fcntl
import os
import pty
import re
import struct
import termios
from contextlib import redirect_stdout, suppress
from typing import Any

import pytest

from modal_app.contract.events import DoneEvent, Event, Phase, StatusEvent, StreamEvent
from workbench.cli.common import EventPrinter

STAMPS: dict[str, Any] = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
DONE = DoneEvent(**STAMPS, seq=99)


def said(*pieces: tuple[str, str]) -> list[Event]:
    return [StreamEvent(**STAMPS, seq=seq, channel=channel, text=text) for seq, (channel, text) in enumerate(pieces, 1)]


def piped(capsys: pytest.CaptureFixture[str], events: list[Event]) -> list[str]:
    show = EventPrinter(as_json=False)
    for event in events:
        show(event)
    show.rest()
    return [line.removeprefix(" " * 12 + "│ ") for line in capsys.readouterr().out.splitlines()]


def on_terminal(events: list[Event], columns: int = 80) -> str:
    """What is written to a terminal, as it is written."""
    main, other = pty.openpty()
    try:
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(other, "w") as out, redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            show = EventPrinter(as_json=False)
            for event in events:
                show(event)
            show.rest()
        written = b""
        with suppress(OSError):  # that is how a terminal ends
            while piece := os.read(main, 65536):
                written += piece
        return written.decode()
    finally:
        os.close(main)


def seen(written: str) -> list[str]:
    """What then stands on the terminal."""
    lines = [line.rsplit("\r\x1b[K", maxsplit=1)[-1] for line in written.replace("\r\n", "\n").split("\n")]
    return [line.removeprefix(" " * 12 + "│ ") for line in lines if line]


SHREDDED = said(
    ("stdout", "row 1\nro"),
    ("stderr", "Traceback (most rec"),
    ("stdout", "w 2\nr"),
    ("stderr", "ent call last):\n  File"),
    ("stdout", "ow 3"),
    ("stderr", ' "job.py"\n'),
    ("stdout", "\n"),
)
WHOLE = {"row 1", "row 2", "row 3", "Traceback (most recent call last):", '  File "job.py"'}


def test_channels_that_speak_in_turn_do_not_shred_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    lines = piped(capsys, SHREDDED)
    assert set(lines) == WHOLE
    assert len(lines) == len(WHOLE)


def test_on_a_terminal_a_beginning_is_taken_away_and_stands_whole_later() -> None:
    lines = seen(on_terminal(SHREDDED))
    assert set(lines) == WHOLE
    assert len(lines) == len(WHOLE)


def test_a_beginning_that_is_too_wide_to_be_taken_away_is_left_and_repeated() -> None:
    lines = seen(on_terminal(said(("stdout", "x" * 30), ("stderr", "warning\n"), ("stdout", "y\n")), columns=40))
    assert lines == ["x" * 30 + "…", "warning", "x" * 30 + "y"]


def test_progress_is_seen_on_a_terminal_before_its_line_ends() -> None:
    written = on_terminal([*said(("stdout", "one "), ("stdout", "two "), ("stderr", "no\n"))])
    assert re.findall(r"one two (?!…)", written) == ["one two "] * 2  # taken away for the other line, and shown again


def test_output_without_a_line_end_is_printed_before_what_follows_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    committing = StatusEvent(**STAMPS, seq=3, phase=Phase.COMMITTING, message="saving")
    lines = piped(capsys, [*said(("stdout", "no end"), ("stderr", "nor here")), committing, DONE])
    assert lines[:2] == ["no end", "nor here"]
    assert "saving" in lines[2]
    assert lines[3].endswith("done")


def test_the_model_s_words_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    show = EventPrinter(as_json=False)
    for event in said(("claude", "word "), ("claude", "after word")):
        show(event)
    assert capsys.readouterr().out.endswith("word after word")
    show(said(("stderr", "warning\n"))[0])
    show(said(("claude", ".\n"))[0])
    lines = [line.removeprefix(" " * 12 + "│ ") for line in capsys.readouterr().out.splitlines()]
    assert lines == ["…", "warning", "word after word."]


def test_a_stream_that_was_lost_leaves_no_words_unprinted(capsys: pytest.CaptureFixture[str]) -> None:
    assert piped(capsys, said(("stdout", "half a"), ("stderr", "an"), ("stdout", " line"))) == ["half a line", "an"]
