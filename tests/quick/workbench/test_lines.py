"""Lines as people read them: each belongs to its channel until it ends, however its text was cut into events."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.runs.lines import WIDEST, Assembler, Row
from workbench.text.plain_text import visible

TEXTS = st.text(alphabet=st.sampled_from("ab\n\n\r\r\x00\x1b\t\x85\u2028é😀"), max_size=40)


def rows(*said: tuple[str, str]) -> list[Row]:
    found: list[Row] = []
    lines = Assembler(found.append, visible)
    for at, (channel, text) in enumerate(said):
        lines.say(channel, text, at)
    lines.end_all()
    assert not any(row.open for row in found)
    return found


def texts(found: Sequence[Row], channel: str = "out") -> list[str]:
    return [row.text for row in found if row.channel == channel]


def joined(found: Sequence[Row], channel: str = "out") -> list[str]:
    """The lines of a channel, with the parts of long ones put together."""
    lines: list[str] = []
    for row in found:
        if row.channel == channel:
            lines[-1:] = [lines[-1] + row.text] if row.kind == "more" else [*lines[-1:], row.text]
    return lines


def expected(text: str) -> list[str]:
    """The rule in other words."""
    lines = text.replace("\r\n", "\n").split("\n")
    lines[-1] = lines[-1].removesuffix("\r")  # it may yet become a line's end
    return [visible(line) for line in (lines if lines[-1] else lines[:-1])]


def test_a_line_goes_on_when_another_channel_has_spoken() -> None:
    """Output of both channels at a time, cut where the pipes were read: no line has a part of another."""
    said = [
        ("out", "row 1\nro"),
        ("err", "Traceback (most"),
        ("out", "w 2"),
        ("err", " recent call last):\n"),
        ("out", "\n"),
    ]
    assert [(row.channel, row.text) for row in rows(*said)] == [
        ("out", "row 1"),
        ("out", "row 2"),
        ("err", "Traceback (most recent call last):"),
    ]


@given(TEXTS, st.lists(st.integers(0, 40), max_size=8))
def test_where_a_text_is_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert texts(rows(*(("out", text[a:b]) for a, b in itertools.pairwise(places)))) == expected(text)


@pytest.mark.parametrize(
    "text", ["a\r\nb\r\n\r\nc", "\r\n", "\r", "\n\r", "\r\r\n", "x\r\ny\rz\r", "\n\n", "", "\x00\r\n\x00", "😀\r\n😀"]
)
def test_every_cut_of_a_text_gives_the_same_lines(text: str) -> None:
    for count in range(len(text) + 1):
        for cuts in itertools.combinations(range(len(text) + 1), count):
            places = [0, *cuts, len(text)]
            assert texts(rows(*(("out", text[a:b]) for a, b in itertools.pairwise(places)))) == expected(text)


@given(st.lists(st.tuples(st.sampled_from(["out", "err", "claude"]), TEXTS), max_size=12))
def test_channels_do_not_touch_each_other(said: list[tuple[str, str]]) -> None:
    """Whatever they say in turn, each has the lines that it would have alone."""
    found = rows(*said)
    for channel in ("out", "err", "claude"):
        alone = [one for one in said if one[0] == channel]
        assert texts(found, channel) == expected("".join(text for _, text in alone))
    assert [row.at for row in found] == sorted(row.at for row in found)  # ordered by their beginnings


@pytest.mark.parametrize("length", [WIDEST - 1, WIDEST, WIDEST + 1, 3 * WIDEST, 10 * WIDEST + 7])
@pytest.mark.parametrize("letter", ["x", "😀"])
def test_a_very_long_line_is_cut_into_rows_and_stays_one_line(length: int, letter: str) -> None:
    text = letter * length
    whole = rows(("out", text + "\nnext\n"))
    assert joined(whole) == [text, "next"]
    assert max(len(row.text) for row in whole) <= WIDEST
    pieces = [("out", text[at : at + 1000]) for at in range(0, length, 1000)]
    other = [one for piece in pieces for one in (piece, ("err", "meanwhile\n"))]
    cut = rows(*other, ("out", "\nnext\n"))
    assert joined(cut) == [text, "next"]
    assert set(texts(cut, "err")) == {"meanwhile"}
    assert [row.text for row in rows(*pieces, ("out", "\nnext\n"))] == [row.text for row in whole]


def test_another_part_of_a_model_s_answer_is_another_line() -> None:
    found: list[Row] = []
    lines = Assembler(found.append)
    for block, text in (("m1", "one "), ("m1", "more"), ("m2", "two"), ("m2", "\n")):
        lines.say("claude", text, 0, block)
    lines.tell("claude", "tool", "→ Bash\nls", 0, "body\r\nof it")
    lines.say("claude", "three", 0, "m2")
    assert [(row.text, row.block, row.open) for row in found] == [
        ("one more", "m1", False),
        ("two", "m2", False),
        ("→ Bash ls", None, False),
        ("three", "m2", True),
    ]
    assert found[2].body == "body\nof it"


def test_control_characters_are_visible_as_on_the_page() -> None:
    assert visible("\x00\x1b[2J\t\x7f\x85\u202e\u2066ü😀\n") == "␀␛[2J\t␡\ufffd\ufffd\ufffdü😀\n"
