"""Lines of the CLI: cut, parsed and bounded, whatever they hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.actions.claude_lines import LineReader, Parsed, Unparsed, bounded, size
from modal_app.contract.caps import MAX_JSON_DEPTH
from modal_app.contract.events import StreamEvent, dump_event, parse_event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5), st.integers(1, 50))
def test_objects_come_out_as_they_went_in_wherever_the_bytes_are_cut(
    values: list[dict[str, object]], step: int
) -> None:
    data = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode(errors="surrogatepass")
    reader = LineReader()
    found = [line for start in range(0, len(data), step) for line in reader.feed(data[start : start + step])]
    assert found == [Parsed(value) for value in values]
    assert reader.flush() == []


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_raise_and_what_comes_out_can_be_written(data: bytes, step: int) -> None:
    reader = LineReader(max_line_bytes=100)
    found = [line for start in range(0, len(data), step) for line in reader.feed(data[start : start + step])]
    for line in found + reader.flush():
        if isinstance(line, Unparsed):
            line.text.encode()
        else:
            json.dumps(line.value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"Could not parse",
        b"[1]",
        b'"text"',
        b"{",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 200_000,
        b"\xff\xfe",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_not_a_json_object_stays_text(line: bytes) -> None:
    (found,) = LineReader().feed(line + b"\n")
    assert isinstance(found, Unparsed)
    assert len(found.text) + found.lost_bytes == len(line)


def test_half_a_character_is_replaced() -> None:
    """Python reads it from JSON, and fails only where it is written."""
    (found,) = LineReader().feed(b'{"a":"x\\ud83dy","\\uDE00":["\\ud83d\\ude00"]}\n')
    assert found == Parsed({"a": "x\ufffdy", "\ufffd": ["\U0001f600"]})


def test_a_line_without_end_is_held_only_so_far() -> None:
    reader = LineReader(max_line_bytes=10_000)
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) == []
        assert len(reader._held) <= 10_000
    (found,) = reader.feed(b'\n{"a":1}\n')[:1]
    assert isinstance(found, Unparsed)
    assert (len(found.text), found.lost_bytes) == (4096, 1_000_000 - 4096)


def test_lines_may_end_as_on_windows_be_empty_or_lack_an_end() -> None:
    reader = LineReader()
    assert reader.feed(b'\r\n\n  \n{"a":1}\r\n{"b":') == [Parsed({"a": 1})]
    assert reader.feed(b"2}") == []
    assert reader.flush() == [Parsed({"b": 2})]
    assert reader.flush() == []


@given(st.dictionaries(st.text(max_size=5), JSON | st.text(min_size=500), max_size=5), st.integers(200, 2000))
def test_a_value_is_cut_to_its_bound_and_only_when_it_must(value: dict[str, object], limit: int) -> None:
    cut, was_cut = bounded(value, limit)  # type: ignore[arg-type]  # JSON, by its strategy
    assert size(cut) <= limit
    assert was_cut == (size(value) > limit)  # type: ignore[arg-type]  # JSON, by its strategy
    assert was_cut or cut == value


def test_what_cannot_be_cut_keeps_its_kind() -> None:
    many = {"type": "user", "session_id": "s", "message": [0] * 100_000}
    assert bounded(many) == ({"type": "user", "session_id": "s"}, True)


@pytest.mark.parametrize("opening", [b'{"a":', b'{"a":[', b'{"a":[{"b":'], ids=["objects", "lists", "both"])
@pytest.mark.parametrize("depth", [99, 100, 101, 150, 260, 400, 900])
def test_a_line_is_either_an_event_or_text_at_every_depth(opening: bytes, depth: int) -> None:
    """Python's reader, pydantic's validator and its writer give up at depths of their own."""
    steps = sum(opening.count(kind) for kind in (b"{", b"["))
    ends = b"".join({b"{": b"}", b"[": b"]"}[bytes([kind])] for kind in reversed(opening) if bytes([kind]) in b"{[")
    times, rest = divmod(depth, steps)
    line = opening * times + b"[" * (rest if times else 0) + b"1" + b"]" * (rest if times else 0) + ends * times
    (found,) = LineReader().feed(line + b"\n")
    assert isinstance(found, Parsed if depth <= MAX_JSON_DEPTH else Unparsed)
    if isinstance(found, Parsed):
        event = StreamEvent(run_id="r", seq=1, at_ms=0, elapsed_ms=0, channel="claude", message=found.value)
        assert parse_event(dump_event(event)) == event
