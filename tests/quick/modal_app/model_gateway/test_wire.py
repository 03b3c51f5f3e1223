"""Usage is read off what streams by, secrets do not pass, wherever the bytes are cut."""

import json

from hypothesis import given
from hypothesis import strategies as st

from modal_app.model_gateway.wire import REDACTED, Scrubber, UsageTap, scrub
from workbench.scripted_model import Turn, frames
from workbench.scripted_model.frames import Answer

KEY = b"sk-secret-key-of-the-service"
STREAM = b"".join(map(frames.sse, Answer(Turn(text="a b c", output_tokens=42), "m", "s", 1000).frames()))


def passed(data: bytes, step: int) -> bytes:
    scrubber = Scrubber([KEY, b"another"])
    out = b"".join(scrubber.feed(data[start : start + step]) for start in range(0, len(data), step))
    return out + scrubber.flush()


@given(st.lists(st.sampled_from([KEY, KEY[:5], KEY[3:], b"another", b"x", b"\n"]), max_size=8), st.integers(1, 40))
def test_no_cut_lets_a_secret_through_or_loses_a_byte(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    assert passed(data, step) == data.replace(KEY, REDACTED).replace(b"another", REDACTED)


def test_what_cannot_begin_a_secret_is_not_held() -> None:
    assert Scrubber([KEY]).feed(b"data: {}\n\n") == b"data: {}\n\n"
    assert Scrubber([]).feed(b"sk") == b"sk"
    assert scrub(f"no {KEY.decode()}!", [KEY]) == "no [redacted]!"


@given(st.integers(1, 200))
def test_usage_is_read_wherever_the_stream_is_cut(step: int) -> None:
    tap = UsageTap(lambda: 0.0)
    for start in range(0, len(STREAM), step):
        tap.feed(STREAM[start : start + step])
    assert (tap.tokens, tap.seen, tap.whole) == (1042, True, True)


def test_windows_ends_of_line_and_whole_messages_count_too() -> None:
    tap = UsageTap(lambda: 0.0)
    tap.feed(STREAM.replace(b"\n", b"\r\n"))
    assert tap.tokens == 1042
    tap = UsageTap(lambda: 0.0)
    tap.message(
        {
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 2,
                "cache_read_input_tokens": 4,
                "output_tokens": 8,
            }
        }
    )
    assert tap.tokens == 15


def test_pings_are_no_life() -> None:
    now = [0.0]
    tap = UsageTap(lambda: now[0])
    now[0] = 5
    tap.feed(b'event: ping\ndata: {"type":"ping"}\n\n: comment\n\n')
    assert tap.last_life == 0
    tap.feed(b'event: content_block_delta\ndata: {"type"')
    assert tap.last_life == 0
    tap.feed(b":1}\n\n")
    assert tap.last_life == 5


def test_hostile_usage_and_endless_lines_cost_nothing() -> None:
    tap = UsageTap(lambda: 0.0)
    for usage in ([], {"input_tokens": -5, "output_tokens": True}, {"output_tokens": 1e9}, {"output_tokens": 2**70}):
        tap.feed(b"data: " + json.dumps({"usage": usage}).encode() + b"\n")
    tap.feed(b'data: {"usage":' + b"[" * 100_000 + b"\n")
    for _ in range(100):
        tap.feed(b"x" * 100_000)
    assert tap.tokens == 0
    assert len(tap._line) < 2 * 1024 * 1024
