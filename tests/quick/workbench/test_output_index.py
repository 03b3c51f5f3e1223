"""All lines of a run by number, filtered and searched, with bounded memory: what is forgotten is known to be."""

import gc
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.contract.events import DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent
from workbench.runs import output_index, spool
from workbench.runs.output_index import OutputIndex
from workbench.runs.row_selection import Everything, Matching
from workbench.runs.spool import Spool

STAMPS: dict[str, Any] = {"run_id": "r", "at_ms": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, and files soon: what else only very long output would show."""
    monkeypatch.setattr(output_index, "BLOCK_ROWS", 4)
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 64)


def said(*pieces: tuple[str, str]) -> list[Event]:
    return [
        StreamEvent(**STAMPS, seq=seq, elapsed_ms=seq, channel=channel, text=text)
        for seq, (channel, text) in enumerate(pieces, 1)
    ]


def texts(index: OutputIndex) -> list[str]:
    return [row.text for row in index.rows(range(index.first, index.total))]


def matches(index: OutputIndex, *wanted: str) -> list[int]:
    found = Matching(index, wanted)
    while not found.whole:
        found.advance(0)
    return list(found.numbers(found.begin, found.end))


def test_every_line_is_there_by_its_number() -> None:
    index = OutputIndex(said(*(("stdout", f"line {number}\n") for number in range(100))))
    assert texts(index) == [f"line {number}" for number in range(100)]
    assert [row.text for row in index.rows([97, 3, 50])] == ["line 97", "line 3", "line 50"]
    assert [row.at for row in index.rows([0, 99])] == [1, 100]
    for number in (-1, 100):
        with pytest.raises(LookupError):
            index.row(number)


def test_milestones_are_rows_and_errors_raise_the_alarm() -> None:
    index = OutputIndex(
        [
            StatusEvent(**STAMPS, seq=1, elapsed_ms=0, phase=Phase.RUNNING, message="two\nlines"),
            *said(("stdout", "no end")),
        ]
    )
    assert (index.alarms, index.open) == (0, {1})
    index.add(DoneEvent(**STAMPS, seq=3, elapsed_ms=2, result={"text": "é"}))
    rows = index.rows(range(index.total))
    assert [(row.channel, row.text) for row in rows] == [
        ("status", "running: two lines"),
        ("stdout", "no end"),
        ("done", "done: exit code 0"),
    ]
    assert rows[2].body == '{\n  "text": "é"\n}'
    assert index.open == frozenset()
    failed = ErrorEvent(**STAMPS, seq=1, elapsed_ms=10**30, code="process_failed", message="m", recoverable=False)
    other = OutputIndex([failed])
    assert (other.alarms, other.row(0).at) == (1, 2**53)


def test_a_line_that_ends_long_after_it_began_is_whole() -> None:
    """Its place was written already: what came meanwhile stays where it is."""
    meanwhile = [("stderr", f"warning {number}\n") for number in range(20)]
    index = OutputIndex(said(("stdout", "begun "), *meanwhile, ("stdout", "going on ")))
    assert index.row(0).text == "begun going on "
    assert index.open == {0}
    assert matches(index, "begun going on") == [0]  # though its place has only its beginning
    begun = Matching(index, ["on ended"])
    begun.advance(1)
    assert begun.end == 0
    for event in said(("stdout", "ended\n"), ("stdout", "next\n")):
        index.add(event)
    assert texts(index) == ["begun going on ended", *(f"warning {number}" for number in range(20)), "next"]
    assert index.open == frozenset()
    begun.advance(1)
    assert list(begun.numbers(0, 9)) == [0]
    assert matches(index, "BEGUN", "ended") == [0]


PIECES = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(alphabet="aBß\n\r\x00İ😀 ", max_size=12)), max_size=40
)


@given(PIECES, st.sampled_from(["a", "b", "ss", "ß", "😀", "␀", "a b", "i̇"]), st.integers(0, 40))
def test_what_is_found_is_what_a_look_at_every_row_finds(
    pieces: list[tuple[str, str]], wanted: str, looked: int
) -> None:
    """Also when it was looked at while the lines were still growing."""
    events = said(*pieces)
    index = OutputIndex(events[:looked])
    early = Matching(index, [wanted])
    early.advance(0)
    for event in events[looked:]:
        index.add(event)
        early.advance(0)
    while not early.whole:
        early.advance(0)
    every = [number for number, text in enumerate(texts(index)) if wanted.casefold() in text.casefold()]
    assert list(early.numbers(early.begin, early.end)) == matches(index, wanted) == every
    assert texts(index) == texts(OutputIndex(events))


def test_a_search_is_not_particular_about_letter_case() -> None:
    index = OutputIndex(
        said(*(("stdout", f"{text}\n") for text in ("Straße", "STRASSE", "ΟΔΟΣ", "οδος", "İstanbul", "x")))
    )
    assert matches(index, "strasse") == matches(index, "STRAßE") == [0, 1]
    assert matches(index, "οδοσ") == [2, 3]
    assert matches(index, "İSTANBUL") == [4]
    assert matches(index, "") == [0, 1, 2, 3, 4, 5]


def test_the_next_match_is_found_before_all_output_was_searched() -> None:
    index = OutputIndex(said(*(("stdout", f"{number} of 100\n") for number in range(100))))
    found = Matching(index, ["0 OF"])
    assert (found.first_after(-1, 1), found.first_after(0, 1), found.first_after(55, 1)) == (0, 10, 60)
    assert found.first_after(90, 1) is None
    assert (found.whole, found.knows(0)) == (False, False)


def test_places_stay_when_the_oldest_is_forgotten() -> None:
    index = OutputIndex(spool=Spool(400))
    plain, odd = Everything(index), Matching(index, ["odd"])
    for event in said(*(("stdout", f"{'odd' if number % 2 else 'even'} {number}\n") for number in range(200))):
        index.add(event)
        odd.advance(1)
    assert 0 < index.first < index.total == 200
    assert texts(index) == [f"{'odd' if number % 2 else 'even'} {number}" for number in range(index.first, 200)]
    assert (plain.begin, plain.end) == (index.first, 200)
    assert odd.end == 100
    assert list(odd.numbers(odd.begin, odd.end)) == [number for number in range(index.first, 200) if number % 2]
    assert odd.place(199) == 99
    with pytest.raises(LookupError):
        index.row(index.first - 1)


def test_the_number_of_rows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_index, "MAX_ROWS", 50)
    index = OutputIndex(said(("stdout", "\n" * 30), *(("stdout", "\n") for _ in range(170))))
    assert index.total == 200
    assert 40 <= index.total - index.first <= 54


def test_an_event_of_any_size_is_taken() -> None:
    index = OutputIndex(said(("stdout", "x\n" * 1000 + "y" * 100_000)))
    assert index.total == 1000 + 13
    assert "".join(row.text for row in index.rows(range(1000, 1013))) == "y" * 100_000


def files_below(directory: Path) -> int:
    """How many files of a directory this process has open, also those without a name."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # others come and go meanwhile
            found += descriptor.readlink().is_relative_to(directory)
    return found


def test_files_are_private_nameless_and_end_with_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    index = OutputIndex(said(*(("stdout", f"line {number}\n") for number in range(1000))))
    assert index.row(0).text == "line 0"
    assert list(tmp_path.iterdir()) == []
    assert files_below(tmp_path) == 1
    index.close()
    index.close()
    assert files_below(tmp_path) == 0
    assert (index.first, index.total) == (1000, 1000)
    index.add(said(("stdout", "after\n"))[0])
    assert texts(index) == ["after"]
    other = OutputIndex(said(("stdout", "line\n" * 1000)))
    assert other.total == 1000
    del other
    gc.collect()
    assert files_below(tmp_path) == 0


def test_without_a_place_for_files_less_is_kept_and_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(spool, "WITHOUT_FILE_BYTES", 1000)
    index = OutputIndex(said(*(("stdout", f"line {number}\n") for number in range(1000))))
    assert 700 < index.first < index.total == 1000
    assert texts(index) == [f"line {number}" for number in range(index.first, 1000)]


def test_a_disk_that_becomes_full_costs_the_oldest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written stays readable, and what comes is kept in memory."""
    written = 0
    real = os.pwrite

    def pwrite(file: int, data: memoryview, at: int) -> int:
        nonlocal written
        written += len(data)
        if written > 2000:
            raise OSError(28, "No space left on device")
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    index = OutputIndex(said(*(("stdout", f"line {number}\n") for number in range(1000))))
    assert texts(index) == [f"line {number}" for number in range(1000)]
