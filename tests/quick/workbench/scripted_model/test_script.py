"""Scripts: how they are written, which turn answers which conversation, what is refused."""

from pathlib import Path

import pytest

from workbench import scripted_model
from workbench.scripted_model import Block, Fault, Script, ScriptError, Tool, Turn, load_script, parse_script
from workbench.scripted_model.script import answers, prompts

PAGE = """
model: scripted-1
conversations:
  - when: web page
    turns:
      - text: I will write it.
        tools:
          - {name: Write, input: {file_path: index.html, content: "<h1>hi</h1>"}}
      - text: [Do, ne.]
        pace_ms: 5
  - turns:
      - text: What page?
        first: [429, {status: 529, times: 2}, hang_mid_stream]
        fault: {kind: eof_mid_stream, after_deltas: 3}
"""


DEMO = Path(scripted_model.__file__).parent / "demo.yaml"


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: str = "x") -> dict[str, object]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_a_script_reads_as_people_write_it() -> None:
    script = parse_script(PAGE)
    first, second = script.conversations[0].turns
    assert first.text == ("I ", "will ", "write ", "it.")
    assert first.tools == (Tool(name="Write", input={"file_path": "index.html", "content": "<h1>hi</h1>"}),)
    assert (first.stop_reason, second.stop_reason) == ("tool_use", "end_turn")
    assert second.text == ("Do", "ne.")
    assert script.conversations[1].turns[0].first[1] == Fault(status=529, times=2)


def test_turns_alone_answer_every_prompt() -> None:
    assert parse_script("turns: [{text: a}]") == Script.of(Turn(text="a"))


def test_the_conversation_decides_the_turn() -> None:
    """No state: a repeated request, a resumed session and a second run get what the first one got."""
    script = parse_script(PAGE)
    page = script.conversations[0].turns
    for _ in range(2):
        assert script.find([user("a web page please")]) is page[0]
        assert script.find([user("a web page please"), assistant(), user("ok")]) is page[1]
    assert script.find([user("hello")]) is script.conversations[1].turns[0]


@pytest.mark.parametrize("script", [parse_script(PAGE + "    afterwards: {text: Go on.}\n"), load_script(DEMO)])
def test_a_conversation_answers_whatever_comes_after_its_turns(script: Script) -> None:
    """A session that is resumed, or forked, as often as anybody likes."""
    last = script.conversations[-1]
    known = len(last.turns)
    for more in (0, 1, 7, 40):
        messages = [message for _ in range(known + more) for message in (user("hello"), assistant())]
        assert script.find([*messages, user("and now?")]) is last.afterwards
    assert script.find([user("hello")]) is last.turns[0]
    assert last.afterwards is not None
    assert last.afterwards.stop_reason == "end_turn", "nothing comes after it but the next prompt"


def test_turns_alone_may_have_an_afterwards() -> None:
    script = parse_script("turns: [{text: a}]\nafterwards: {text: b}\nmodel: m")
    assert script.find([user("x"), assistant(), user("y")]).text == ("b",)
    assert script.model == "m"


def test_blocks_stand_in_any_order_behind_the_others() -> None:
    turn = parse_script("""
turns:
  - text: Now
    tools: [{name: A}]
    blocks: [{thinking: hm}, {text: then}, {tool: {name: B}}]
    structured: {x: 1}
""").find([user("x")])
    told = [block.tool.name if block.tool else block.text or block.thinking for block in turn.content]
    assert told == [("Now",), "A", ("hm",), ("then",), "B", "StructuredOutput"]
    assert [tool.name for tool in turn.calls] == ["A", "B", "StructuredOutput"]
    assert Turn(blocks=(Block(text="a"),)).stop_reason == "end_turn"


def test_messages_of_the_system_and_split_answers_do_not_shift_the_turn() -> None:
    split = [user("a"), {"role": "system", "content": "x"}, assistant(), assistant(), user("b"), assistant()]
    assert answers(split) == 2


def test_reminders_are_not_the_prompt() -> None:
    blocks = [
        {"type": "text", "text": "<system-reminder>a web page</system-reminder>"},
        {"type": "text", "text": "hello"},
    ]
    assert list(prompts([{"role": "user", "content": blocks}])) == [(0, "hello")]


def test_faults_come_in_order_and_then_the_lasting_one() -> None:
    turn = parse_script(PAGE).conversations[1].turns[0]
    faults = [turn.fault_of(attempt, streams=True) for attempt in range(6)]
    assert [fault and (fault.kind, fault.status) for fault in faults[:3]] == [("status", n) for n in (429, 529, 529)]
    assert [fault and fault.kind for fault in faults[3:]] == ["hang_mid_stream", "eof_mid_stream", "eof_mid_stream"]
    assert turn.fault_of(3, streams=False) is None
    assert turn.fault_of(0, streams=False) is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("turns: []", "conversations.0.turns"),
        ("turns: [{txt: a}]", "txt"),
        ("turns: [{blocks: [{text: a, thinking: b}]}]", "one of thinking, text and tool"),
        ("turns: [{blocks: [{}]}]", "one of thinking, text and tool"),
        ("turns: [{text: a, fault: burn}]", "fault.kind"),
        ("turns: [{text: a, fault: 200}]", "fault.status"),
        ("conversations: [{when: '(', turns: [{text: a}]}]", "when"),
        ("turns: [", "not YAML"),
        ("- a", "script"),
    ],
)
def test_a_wrong_script_is_refused_with_the_place(text: str, told: str) -> None:
    with pytest.raises(ScriptError, match=told):
        parse_script(text)


def test_what_the_script_does_not_answer_is_said() -> None:
    with pytest.raises(ScriptError, match="has 1 turns, turn 2"):
        Script.of(Turn(text="a")).find([user("x"), assistant(), user("y")])
    with pytest.raises(ScriptError, match="no conversation"):
        parse_script("conversations: [{when: page, turns: [{text: a}]}]").find([user("x")])
