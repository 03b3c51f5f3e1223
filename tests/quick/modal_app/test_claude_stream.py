"""What the CLI printed, as recorded, becomes messages, text and the right end; the traps of the format one by one."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.actions.claude_stream import ClaudeStream, Item, Message, Plain, Text
from modal_app.actions.claude_verdict import Verdict
from modal_app.contract.caps import MAX_RESULT_BYTES, MAX_STREAM_TEXT_BYTES
from modal_app.contract.errors import ErrorCode
from tests.support.claude.cases import CASES, IN_THE_BACKGROUND, WORDS, Case
from tests.support.paths import RECORDED

PAUSE_S = 0.02


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.jsonl").read_bytes()


def lines(name: str) -> list[bytes]:
    return recorded(name).splitlines(keepends=True)


def read(data: bytes, exit_code: int = 0, *, structured: bool = False, step: int = 0) -> tuple[list[Item], Verdict]:
    stream = ClaudeStream(clock=Clock(), wants_structured=structured)
    parts = [data[start : start + step] for start in range(0, len(data), step)] if step else [data]
    items = [item for part in parts for item in stream.feed(part)]
    return items + stream.finish(), stream.verdict(exit_code)


def said(items: list[Item]) -> str:
    """The text as a reader has it who takes back what was replaced."""
    texts: dict[str, str] = {}
    for item in items:
        if isinstance(item, Text | Message) and item.replaces is not None:
            texts.pop(item.replaces, None)
        if isinstance(item, Text):
            texts[item.message_id] = texts.get(item.message_id, "") + item.text
    return "".join(texts.values())


def delta(text: str, index: int = 0, kind: str = "text_delta", name: str = "text", parent: str | None = None) -> bytes:
    event = {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}}
    return json.dumps({"type": "stream_event", "event": event, "parent_tool_use_id": parent}).encode() + b"\n"


def line(**value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def begin(message_id: str) -> bytes:
    return line(type="stream_event", event={"type": "message_start", "message": {"id": message_id}})


def stop(**more: object) -> bytes:
    return line(type="stream_event", event={"type": "message_stop"}, **more)


RESULT = line(type="result", subtype="success", is_error=False, result="ok")


ALL: dict[str, Case] = {**CASES, **IN_THE_BACKGROUND}


@pytest.mark.parametrize("step", [0, 7], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", ALL)
def test_every_recorded_end_is_the_right_one(name: str, step: int) -> None:
    case = ALL[name]
    items, verdict = read(recorded(name), case.exit_code, structured="json_schema" in case.options, step=step)
    assert (verdict.error.code if verdict.error else None) == case.code
    assert said(items) == case.text
    assert any(getattr(item, "replaces", None) for item in items) == case.replaced
    assert case.told in (verdict.error.message if verdict.error else "")


@pytest.mark.parametrize("name", ALL)
def test_what_readers_get_is_bounded_and_can_be_written(name: str) -> None:
    for item in read(recorded(name))[0]:
        written = json.dumps(item.value, ensure_ascii=False) if isinstance(item, Message) else item.text
        assert len(written.encode()) <= MAX_STREAM_TEXT_BYTES * 1.2, "json.dumps adds spaces"


def test_a_job_that_is_ended_before_its_result_says_what_it_has_cost_so_far() -> None:
    """Each answer tells its own cost; the CLI's sum is the same."""
    whole = recorded("tool")
    _, verdict = read(whole)
    told = whole.splitlines(keepends=True)
    _, ended = read(b"".join(line for line in told if b'"type":"result"' not in line), -1)
    assert ended.error is not None
    assert verdict.usage.input_tokens > 10_000
    assert ended.usage == replace(verdict.usage, cost_usd=0)
    assert ended.turns == 2


def test_a_job_that_is_done_says_what_it_cost_and_how_to_go_on() -> None:
    _, verdict = read(recorded("plain"))
    assert verdict.error is None
    assert verdict.result == WORDS
    assert verdict.session_id is not None
    assert (verdict.usage.input_tokens > 1000, verdict.usage.output_tokens > 1) == (True, True)
    assert 0 < verdict.usage.cost_usd < 1
    assert (verdict.turns, verdict.denied) == (1, ())
    assert read(recorded("structured"), structured=True)[1].structured_output == {"a": "b"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tool", "Said."),
        ("thinking_last", "The answer."),
        ("max_tokens_once", "and so on."),
        ("text_block_broken", "one two And done."),
        ("refusal_once", "Fine."),
        ("background", "It runs.\n\nIt has ended."),
    ],
)
def test_the_answer_is_all_that_the_model_said_last(name: str, text: str) -> None:
    """The CLI's own `result` is the last block's text, of its last result; empty when that block is a thought."""
    assert read(recorded(name), structured="structured" in name)[1].result == text


def block(message_id: str = "m1", parent: str | None = None, **value: object) -> bytes:
    return line(type="assistant", message={"id": message_id, "content": [value]}, parent_tool_use_id=parent)


THOUGHT, TOOL = block(type="thinking", thinking="hm"), block(type="tool_use", name="Bash", input={})
RAN = line(type="user", message={"content": [{"type": "tool_result", "content": "x"}]}, parent_tool_use_id=None)
ONE, TWO, THREE = block(type="text", text="One."), block(type="text", text=" Two."), block("m2", type="text", text="3.")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (ONE + THOUGHT, "One."),
        (ONE + THOUGHT + TWO + THOUGHT, "One. Two."),
        (ONE + TOOL + RAN + THREE, "3."),
        (ONE + TOOL + RAN + TWO + THREE, "3."),  # a tool runs while its message goes on
        (ONE + TOOL + RAN + block("m2", type="thinking", thinking="hm"), "One."),
        (ONE + block(parent="toolu_1", type="text", text="of a subagent"), "One."),
        (THOUGHT, ""),
    ],
    ids=range(7),
)
def test_an_answer_is_the_text_of_all_blocks_after_the_last_tool(lines: bytes, text: str) -> None:
    end = line(type="result", subtype="success", is_error=False, result="")
    assert read(lines + end)[1].result == text


def test_data_that_was_handed_over_before_the_last_result_counts() -> None:
    _, verdict = read(recorded("background_structured"), structured=True)
    assert (verdict.error, verdict.structured_output) == (None, {"a": "b"})
    results = [one for one in lines("background_structured") if b'"type":"result"' in one]
    assert ["structured_output" in json.loads(one) for one in results].count(True) == 1
    assert len(results) >= 2


def test_a_run_with_several_results_fails_with_the_first_that_did() -> None:
    """Also when good ones follow, and the CLI ends with 0."""
    bad = line(type="result", subtype="error_max_turns", is_error=True, errors=["too many"])
    other = line(type="result", subtype="success", is_error=True, result="overloaded")
    for results in (bad + RESULT, RESULT + bad, RESULT + bad + other, RESULT + bad + RESULT):
        error = read(results)[1].error
        assert error is not None
        assert (error.code, error.message) == (ErrorCode.PROCESS_FAILED, "too many")


# What the recorded runs have really asked: the script's answers, as the scripted model has counted them.
ASKED = {"plain": 1, "tool": 2, "subagent": 2, "max_turns": 1, "max_budget": 1, "background": 3, "refusal_once": 2}


@pytest.mark.parametrize("name", ASKED)
def test_usage_is_of_the_run_with_all_of_its_results_and_subagents(name: str) -> None:
    _, verdict = read(recorded(name), ALL[name].exit_code)
    accounts = [json.loads(one) for one in lines(name) if b'"type":"result"' in one]
    models = [model for one in accounts for model in one["model_usage_since_last_result"].values()]
    assert verdict.usage.input_tokens == sum(model["inputTokens"] for model in models) > 5000
    assert verdict.usage.output_tokens == sum(model["outputTokens"] for model in models) > 0
    assert verdict.usage.cost_usd == pytest.approx(sum(model["costUSD"] for model in models))
    assert verdict.turns == ASKED[name]


def test_a_session_that_goes_on_tells_each_run_its_own() -> None:
    """`total_cost_usd` and `modelUsage` of a resumed run begin with what the session had cost before."""

    def resumed(before: int) -> bytes:
        told = json.loads(lines("plain")[-1])
        model, account = next(iter(told["modelUsage"].items()))
        told["total_cost_usd"] += before * account["costUSD"]
        told["modelUsage"] = {model: {**account, "inputTokens": account["inputTokens"] * (before + 1)}}
        return b"".join(lines("plain")[:-1]) + line(**told)

    usages = {read(resumed(before))[1].usage for before in range(4)}
    assert usages == {read(recorded("plain"))[1].usage}


def test_what_came_after_the_last_result_counts_too() -> None:
    """A CLI that is killed while it works in the background has told the rest answer by answer."""
    parts = lines("background")
    last = max(at for at, one in enumerate(parts) if b'"type":"result"' in one)
    _, whole = read(b"".join(parts))
    _, killed = read(b"".join(parts[:last]), 137)
    assert killed.usage.cost_usd < whole.usage.cost_usd
    assert replace(killed.usage, cost_usd=whole.usage.cost_usd) == whole.usage
    assert killed.turns == whole.turns


def test_a_subagent_of_a_run_without_a_result_counts_with_what_it_has_told() -> None:
    used = {"input_tokens": 700, "output_tokens": 3}
    message = {"id": "m9", "model": "m", "content": [{"type": "tool_use"}], "usage": used}
    block = line(type="assistant", message=message, parent_tool_use_id="toolu_1")
    _, verdict = read(block + block, -9)
    assert (verdict.usage.input_tokens, verdict.usage.output_tokens, verdict.turns) == (700, 3, 0)


def test_success_in_name_is_an_error_in_fact() -> None:
    (last,) = [json.loads(one) for one in lines("status_500") if b'"type":"result"' in one]
    assert (last["subtype"], last["is_error"]) == ("success", True)
    assert next(iter(last)) != "type", "the type is not always the first key"
    assert read(recorded("status_500"))[1].error is not None


def test_an_exit_without_a_result_is_a_failure_whatever_its_code() -> None:
    cut = b"".join(lines("plain")[:-1])
    for exit_code in (0, 1, 143, -9):
        error = read(cut, exit_code)[1].error
        assert error is not None
        assert (error.code, error.exit_code) == (ErrorCode.PROCESS_FAILED, exit_code)
    assert read(b"", 1)[1].error is not None


def test_a_good_result_with_a_bad_exit_code_is_a_failure() -> None:
    error = read(recorded("plain"), 1)[1].error
    assert error is not None
    assert (error.code, error.exit_code) == (ErrorCode.PROCESS_FAILED, 1)


def test_the_result_may_come_before_the_last_line_and_after_unknown_ones() -> None:
    parts = lines("plain")
    moved = [line(type="hologram", x=1), line(no="type"), *parts[1:], line(type="system", subtype="task_updated")]
    items, verdict = read(b"".join(moved))
    assert verdict.error is None
    assert said(items) == WORDS
    assert sum(isinstance(item, Message) and item.value.get("type") == "hologram" for item in items) == 1


def test_invalid_tool_json_is_known_before_the_cli_ends() -> None:
    stream = ClaudeStream(clock=Clock())
    seen = 0
    for one in lines("invalid_tool_json"):
        stream.feed(one)
        seen += 1
        if stream.failure is not None:
            break
    assert stream.failure is not None
    assert stream.failure.code is ErrorCode.MODEL_INVALID_OUTPUT
    assert seen < len(lines("invalid_tool_json")) / 2


def test_an_interrupted_job_is_called_that() -> None:
    told = {"errors": ["[ede_diagnostic] result_type=user"], "terminal_reason": "aborted_tools"}
    error = read(line(type="result", subtype="error_during_execution", is_error=True, **told))[1].error
    assert error is not None
    assert (error.code, error.message) == (ErrorCode.PROCESS_FAILED, "the Claude CLI was interrupted")


def test_structured_output_counts_only_when_it_is_there() -> None:
    """The CLI exits with 0 without it; null may be what was asked for."""
    null = line(type="result", subtype="success", is_error=False, result="", structured_output=None)
    assert read(RESULT)[1].error is None
    error = read(RESULT, structured=True)[1].error
    assert error is not None
    assert error.code is ErrorCode.MODEL_INVALID_OUTPUT
    assert read(null, structured=True)[1].error is None


def test_lines_that_are_not_json_stay_in_their_place() -> None:
    first, *rest = lines("plain")
    items, verdict = read(b"warning: something\n" + first + b"{oops\n" + b"".join(rest))
    assert verdict.error is None
    assert items[0] == Plain("warning: something")
    assert items[2] == Plain("{oops")


def test_a_message_too_large_for_an_event_is_cut_and_marked() -> None:
    items, _ = read(line(type="user", message={"content": "x" * 500_000}) + recorded("long_line"))
    first = items[0]
    assert isinstance(first, Message)
    assert first.cut
    assert [item for item in items[1:] if isinstance(item, Message) and item.cut] == []
    assert max(map(len, lines("long_line"))) > 32 * 1024


def test_text_comes_at_once_then_in_fiftieths_of_a_second() -> None:
    clock = Clock()
    stream = ClaudeStream(clock=clock, pause_s=PAUSE_S)
    assert stream.feed(delta("a")) == [Text("a")], "what comes after silence does not wait"
    assert stream.feed(delta("b") + delta("c")) == []
    assert stream.due_at == pytest.approx(clock.now + PAUSE_S)
    clock.now += PAUSE_S / 2
    assert stream.feed(delta("d")) == []
    assert stream.poll() == []
    clock.now += PAUSE_S / 2
    assert stream.poll() == [Text("bcd")]
    assert stream.due_at is None
    clock.now += PAUSE_S
    assert stream.feed(delta("e")) == [Text("e")]
    assert stream.feed(delta("f")) + stream.finish() == [Text("f")]


def test_whatever_follows_text_comes_after_it() -> None:
    stream = ClaudeStream(clock=Clock(), pause_s=PAUSE_S)
    stream.feed(delta("a"))
    other = line(type="system", subtype="status")
    assert [type(item) for item in stream.feed(delta("b") + other + b"plain\n")] == [Text, Message, Plain]
    stream.feed(delta("c"))
    assert [type(item) for item in stream.feed(delta("{", 1, "input_json_delta", "partial_json"))] == [Text]


def test_a_flood_of_text_is_not_held() -> None:
    stream = ClaudeStream(clock=Clock(), pause_s=PAUSE_S)
    stream.feed(delta("a"))
    items = stream.feed(delta("é" * 200_000))
    assert [len(item.text.encode()) <= MAX_STREAM_TEXT_BYTES for item in items if isinstance(item, Text)] == [True] * 7
    assert said(items) == "é" * 200_000


def test_thoughts_tool_inputs_and_subagents_keep_their_form() -> None:
    stream = ClaudeStream(clock=Clock(), pause_s=PAUSE_S)
    data = delta("a") + b"".join(delta(part, 0, "thinking_delta", "thinking") for part in "xyz")
    data += b"".join(delta(part, 1, "input_json_delta", "partial_json") for part in "{}")
    data += delta("s", parent="toolu_1") + delta("t", parent="toolu_1")
    items = stream.feed(data) + stream.finish()
    assert items[0] == Text("a")
    events = [item.value["event"]["delta"] for item in items[1:] if isinstance(item, Message)]  # type: ignore[index, call-overload]  # as written above
    assert events == [
        {"type": "thinking_delta", "thinking": "xyz"},
        {"type": "input_json_delta", "partial_json": "{}"},
        {"type": "text_delta", "text": "st"},
    ]


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.sampled_from([0, 1]), st.floats(0, 0.03)), max_size=30))
def test_text_is_never_lost_nor_reordered(pieces: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    stream = ClaudeStream(clock=clock, pause_s=PAUSE_S)
    items: list[Item] = []
    for text, index, pause in pieces:
        items += stream.feed(delta(text.encode(errors="replace").decode(), index))
        clock.now += pause
        items += stream.poll()
    items += stream.finish()
    told = "".join(item.text for item in items if isinstance(item, Text))
    assert told == "".join(text.encode(errors="replace").decode() for text, _, _ in pieces)


def test_a_stream_begun_again_says_what_it_replaces() -> None:
    items, _ = read(recorded("close_mid_stream_once"))
    texts = [item for item in items if isinstance(item, Text)]
    first = texts[0].message_id
    assert {item.replaces for item in texts if item.message_id == first} == {None}
    assert {item.replaces for item in texts if item.message_id != first} == {first}
    whole = [item for item in items if isinstance(item, Message) and item.value.get("type") == "assistant"]
    assert [item.replaces for item in whole] == [first]


def test_an_answer_without_deltas_after_a_broken_stream_replaces_it() -> None:
    items, verdict = read(recorded("hang_then_second_answer"))
    (first,) = {item.message_id for item in items if isinstance(item, Text)}
    whole = [item for item in items if isinstance(item, Message) and item.value.get("type") == "assistant"]
    assert [item.replaces for item in whole] == [first]
    assert verdict.result == WORDS


def test_blocks_that_were_whole_when_their_stream_broke_are_kept() -> None:
    """What is taken back is named block by block, and nothing where nothing was shown of what broke."""
    items, _ = read(recorded("text_block_broken"))
    texts = [item for item in items if isinstance(item, Text)]
    first, broken, rest = dict.fromkeys(item.message_id for item in texts)
    assert (first[-2:], broken) == ("#0", f"{first[:-2]}#1")
    assert {item.replaces for item in texts if item.message_id == rest} == {broken}
    items, _ = read(recorded("tool_block_broken"))
    assert {item.replaces for item in items if isinstance(item, Text | Message)} == {None}


@pytest.mark.parametrize("first", [0, 1, 7])
def test_a_block_of_text_is_known_by_its_index_wherever_a_reader_begins(first: int) -> None:
    """The first text of a message is not always its first block: thoughts and calls of tools have indices, too."""
    parts = [line(type="stream_event", event={"type": "message_start", "message": {"id": "m"}})]
    parts += [delta("a", first), delta("b", first), delta("c", first + 1)]
    items, _ = read(b"".join(parts))
    named = dict.fromkeys(item.message_id for item in items if isinstance(item, Text))
    assert list(named) == [f"m#{first}", f"m#{first + 1}"]


@pytest.mark.parametrize(
    ("kept", "left"), [(0, "again"), (1, "oneagain"), (2, "onetwoagain"), (9, "onetwothreeagain"), (None, "again")]
)
def test_as_much_of_a_broken_message_is_taken_back_as_the_cli_says(kept: int | None, left: str) -> None:
    told = b"".join(delta(text, index) for index, text in enumerate(("one", "two", "three")))
    abandoned = {} if kept is None else {"abandoned_blocks": {"from_block_index": kept}}
    items, _ = read(begin("m1") + told + stop(**abandoned) + begin("m2") + delta("again"))
    assert said(items) == left
    assert said([item for item in items if isinstance(item, Message | Text)]) == left


def test_a_message_that_was_retracted_is_taken_back() -> None:
    """The CLI asks again when it could not read a tool's call, and names the lines that it has dropped."""
    spoken = {"id": "m1", "content": [{"type": "text", "text": "one"}]}
    gone = line(type="user", message={"content": "Again."}, retracted_message_uuids=["u1", "u2"], isSynthetic=True)
    again = {"id": "m2", "content": [{"type": "text", "text": "two"}]}
    whole = line(type="assistant", uuid="u1", message=spoken, parent_tool_use_id=None)
    end = line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "tool_use"}}) + stop()
    data = begin("m1") + delta("one") + whole + end + gone + begin("m2") + delta("two")
    items, verdict = read(data + line(type="assistant", uuid="u3", message=again, parent_tool_use_id=None) + RESULT)
    assert said(items) == "two"
    assert verdict.result == "two"
    untouched = data.replace(b'"u1", "u2"', b'"u7", "u8"')
    assert said(read(untouched)[0]) == "onetwo"


@pytest.mark.parametrize("beyond", ["texts", "results", "data"])
def test_an_answer_is_bounded_though_each_of_its_lines_is_not_too_large(beyond: str) -> None:
    """It becomes one event, and one that the log does not take would leave the run without an end."""
    part = "x" * (1024 * 1024 - 16)
    text = line(type="assistant", uuid="u", message={"id": "m", "content": [{"type": "text", "text": part}]})
    result = line(type="result", subtype="success", is_error=False, result=part)
    data = line(type="result", subtype="success", is_error=False, result=part, structured_output=[part] * 7)
    fits = {"texts": text * 8 + RESULT, "results": result * 8, "data": data}[beyond]
    assert read(fits)[1].error is None
    _, verdict = read({"texts": text * 9 + RESULT, "results": result * 9, "data": data + RESULT * 9000}[beyond])
    assert verdict.error is not None
    assert verdict.error.code is ErrorCode.TOO_LARGE
    assert len(verdict.result) <= MAX_RESULT_BYTES


def test_silence_is_measured() -> None:
    clock = Clock()
    stream = ClaudeStream(clock=clock)
    clock.now += 5
    assert stream.quiet_s == 5
    stream.feed(b'{"type":"sys')
    assert stream.quiet_s == 5, "half a line is no life"
    stream.feed(b'tem"}\n')
    assert stream.quiet_s == 0


@pytest.mark.parametrize(
    "hostile",
    [
        line(type="result", subtype=["success"], is_error="no", result={"a": 1}, usage=[], permission_denials=7),
        line(
            type="result",
            subtype="success",
            is_error=None,
            total_cost_usd=1e300,
            num_turns=-1,
            usage={"input_tokens": True},
        ),
        line(type="assistant", message=[], error={}) + RESULT,
        line(type="assistant", message={"content": [None, 1, {"input": 3}]}) + RESULT,
        line(type="stream_event", event=None) + line(type="stream_event", event={"type": "message_start"}) + RESULT,
        line(type="stream_event", event={"type": "content_block_delta", "delta": []}) + RESULT,
        line(type="stream_event", event={"type": "content_block_delta", "delta": {"type": "text_delta", "text": 1}}),
        line(type=["x"], subtype={}, session_id="../../etc"),
        b"".join(line(type="assistant", parent_tool_use_id=str(number)) for number in range(1000)),
        line(type="result", model_usage_since_last_result=[1], structured_output={"a": []}, terminal_reason={}),
        line(type="result", model_usage_since_last_result={"m": 3, "n": {"inputTokens": -1, "costUSD": "9"}}),
        line(type="user", retracted_message_uuids={"u": 1}, refused_message_id=["m"], message={"content": 3}),
        begin("m") + delta("x", [2]) + stop(abandoned_blocks=7) + begin("n") + stop(abandoned_blocks={}) + delta("y"),  # type: ignore[arg-type]  # hostile
        begin("m") + delta("x", -(10**30)) + stop(abandoned_blocks={"from_block_index": "1"}) + begin("") + RESULT,
        block(type="text", text={"a": 1}) + block(type="tool_use", id=3) + block(type="text", text=["x"]) + RESULT,
    ],
    ids=range(15),
)
def test_hostile_lines_break_nothing(hostile: bytes) -> None:
    _, verdict = read(hostile)
    assert verdict.session_id is None
    assert verdict.usage.cost_usd == 0
    json.dumps([verdict.result, verdict.turns, verdict.usage.input_tokens, verdict.structured_output])


def test_an_error_is_one_bounded_line() -> None:
    long = line(type="result", subtype="success", is_error=True, result="a\x1b[31m\nb" + "x" * 5000)
    error = read(long, 1)[1].error
    assert error is not None
    assert error.message.startswith("a [31m bx")
    assert len(error.message) == 1001
