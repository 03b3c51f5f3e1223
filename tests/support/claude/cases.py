"""Every way a job of the Claude CLI can end, as a script of the model and what must come of it.

The tests with the real CLI run them; the tests of the parser read what the CLI printed for them (`record`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from modal_app.actions.claude_command import ModelPatience
from modal_app.contract.errors import ErrorCode
from workbench.scripted_model import Block, Conversation, Fault, Script, Tool, Turn
from workbench.scripted_model.script import FaultKind

QUICK = ModelPatience(max_retries=1, headers_s=2, idle_s=1)
QUICK_SECOND = ModelPatience(max_retries=1, headers_s=2, idle_s=1, second_answer=True)
WORDS = "one two three four"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@dataclass(frozen=True)
class Case:
    """`code` None: the job is done. `text` is what is left of the model's text when what was replaced is taken out."""

    script: Script
    code: ErrorCode | None
    text: str = ""
    exit_code: int = 1
    told: str = ""
    replaced: bool = False
    patience: ModelPatience = QUICK
    options: Mapping[str, Any] = field(default_factory=dict)


def _always(kind: FaultKind, **more: Any) -> Script:
    return Script.of(Turn(text=WORDS, pace_ms=60, fault=Fault(kind=kind, after_deltas=2, **more)))


def _once(kind: FaultKind, **more: Any) -> Script:
    return Script.of(Turn(text=WORDS, pace_ms=60, first=(Fault(kind=kind, after_deltas=2, **more),)))


def _status(status: int, **more: Any) -> Case:
    script = Script.of(Turn(fault=Fault(status=status, message="told so", **more)))
    codes = {429: ErrorCode.MODEL_RATE_LIMITED, 529: ErrorCode.MODEL_OVERLOADED}
    return Case(script, codes.get(status, ErrorCode.MODEL_ERROR))


def _bash(command: str) -> Turn:
    return Turn(text="Let me.", tools=(Tool(name="Bash", input={"command": command}),))


def _behind(command: str) -> Turn:
    """A command that is left running."""
    given: dict[str, JsonValue] = {"command": command, "run_in_background": True}
    return Turn(text="I start it.", tools=(Tool(name="Bash", input=given),))


def _broken(*blocks: Block, after_deltas: int) -> Script:
    """A stream that breaks once, in a later block, and the answer that goes on from the blocks before."""
    cut = Fault(kind="eof_mid_stream", after_deltas=after_deltas)
    return Script.of(Turn(blocks=blocks, pace_ms=60, first=(cut,)), Turn(text="And done."))


BASH = {"allowed_tools": ("Bash",)}
CASES: Mapping[str, Case] = {
    "plain": Case(Script.of(Turn(thinking="let me think", text=WORDS)), None, WORDS, 0),
    "tool": Case(Script.of(_bash("echo hi"), Turn(text="Said.")), None, "Let me.Said.", 0, options=BASH),
    "long_line": Case(
        Script.of(_bash("head -c 29000 /dev/zero | tr '\\0' x"), Turn(text="Long.")),
        None,
        "Let me.Long.",
        0,
        options=BASH,
    ),
    "subagent": Case(
        Script(
            conversations=(
                Conversation(when="^look around here$", turns=(Turn(text="the subagent speaks"),)),
                Conversation(
                    turns=(
                        Turn(
                            text="I ask.",
                            tools=(
                                Tool(
                                    name="Agent",
                                    input={
                                        "description": "look",
                                        "prompt": "look around here",
                                        "subagent_type": "general-purpose",
                                        "run_in_background": False,
                                    },
                                ),
                            ),
                        ),
                        Turn(text="All done."),
                    )
                ),
            )
        ),
        None,
        "I ask.All done.",
        0,
        options={"allowed_tools": ("Agent",)},
    ),
    "status_400": _status(400),
    "status_401": _status(401),
    "status_403": _status(403),
    "status_404": _status(404),
    "status_413": _status(413),
    "status_429": _status(429, retry_after_s=1),
    "status_429_for_long": _status(429, retry_after_s=90),
    "status_500": _status(500),
    "status_502": _status(502),
    "status_529": _status(529),
    "status_500_once": Case(Script.of(Turn(text=WORDS, first=(Fault(status=500),))), None, WORDS, 0),
    "reset_before_headers": Case(_always("reset_before_headers"), ErrorCode.MODEL_ERROR),
    "hang_before_headers": Case(_always("hang_before_headers"), ErrorCode.MODEL_ERROR),
    "hang_mid_stream": Case(_always("hang_mid_stream"), ErrorCode.MODEL_ERROR, "one two "),
    "eof_mid_stream": Case(_always("eof_mid_stream"), ErrorCode.MODEL_ERROR, "one two ", replaced=True),
    "close_mid_stream": Case(_always("close_mid_stream"), ErrorCode.MODEL_ERROR, "one two ", replaced=True),
    "error_mid_stream": Case(_always("error_mid_stream", status=529), ErrorCode.MODEL_OVERLOADED, "one two "),
    "invalid_sse": Case(_always("invalid_sse"), ErrorCode.MODEL_ERROR, "one two "),
    "eof_mid_stream_once": Case(_once("eof_mid_stream"), None, WORDS, 0, replaced=True),
    "close_mid_stream_once": Case(_once("close_mid_stream"), None, WORDS, 0, replaced=True),
    "hang_then_second_answer": Case(_always("hang_mid_stream"), None, "", 0, replaced=True, patience=QUICK_SECOND),
    "invalid_sse_then_second_answer": Case(_always("invalid_sse"), None, "", 0, replaced=True, patience=QUICK_SECOND),
    "text_block_broken": Case(
        _broken(Block(text="one two "), Block(text="three four"), after_deltas=3),
        None,
        "one two And done.",
        0,
        replaced=True,
    ),
    "tool_block_broken": Case(
        _broken(Block(text="one two "), Block(tool=Tool(name="Bash", input={"command": "x" * 200})), after_deltas=3),
        None,
        "one two And done.",
        0,
    ),
    "block_after_tool_broken": Case(
        _broken(
            Block(text="one two "),
            Block(tool=Tool(name="Bash", input={"command": "echo hi"})),
            Block(text="three four"),
            after_deltas=4,
        ),
        None,
        "one two And done.",
        0,
        replaced=True,
        options=BASH,
    ),
    "refusal": Case(Script.of(*[Turn(text="No.", stop="refusal")] * 2), ErrorCode.MODEL_REFUSED, "No.", replaced=True),
    "refused_cyber": Case(
        Script.of(*[Turn(text="No.", stop="refusal", category="cyber")] * 2),
        ErrorCode.MODEL_REFUSED,
        "No.",
        told="the model refused, as cyber: ",
        replaced=True,
    ),
    "refusal_once": Case(
        Script.of(Turn(text="No way.", stop="refusal"), Turn(text="Fine.")), None, "Fine.", 0, replaced=True
    ),
    "refusal_once_with_tool": Case(
        Script.of(
            Turn(text="I do.", tools=(Tool(name="Bash", input={"command": "true"}),), stop="refusal"),
            Turn(text="Fine."),
        ),
        None,
        "Fine.",
        0,
        replaced=True,
        options=BASH,
    ),
    "prompt_too_long": Case(
        Script.of(Turn(fault=Fault(status=400, message="prompt is too long: 210000 tokens > 200000 maximum"))),
        ErrorCode.CONTEXT_FULL,
        told="Prompt is too long",
    ),
    "over_the_context_limit": Case(
        Script.of(
            Turn(fault=Fault(status=400, message="input length and `max_tokens` exceed context limit: 1 + 2 > 2"))
        ),
        ErrorCode.CONTEXT_FULL,
        told="Prompt is too long",
    ),
    "thinking_last": Case(
        Script.of(Turn(text="The answer.", blocks=(Block(thinking="was that right"),))), None, "The answer.", 0
    ),
    "max_tokens": Case(
        Script.of(*[Turn(text="and so on ", stop="max_tokens")] * 9), ErrorCode.MODEL_INVALID_OUTPUT, "and so on " * 4
    ),
    "max_tokens_once": Case(
        Script.of(Turn(text="and so ", stop="max_tokens"), Turn(text="on.")), None, "and so on.", 0
    ),
    "invalid_tool_json": Case(
        Script.of(Turn(tools=(Tool(name="Write", raw_input='{"file_path": "a.txt", "content'),)), Turn(text="Oh.")),
        ErrorCode.MODEL_INVALID_OUTPUT,
        "Oh.",
        0,
        told="the tool Write",
    ),
    "denied": Case(
        Script.of(_bash("python3 -c 'print(1)'"), Turn(text="I could not.")),
        ErrorCode.PERMISSION_DENIED,
        "Let me.I could not.",
        0,
        told="to use Bash:",
    ),
    "unknown_tool": Case(Script.of(Turn(tools=(Tool(name="Nope"),)), Turn(text="No such.")), None, "No such.", 0),
    "structured": Case(Script.of(Turn(structured={"a": "b"})), None, "", 0, options={"json_schema": SCHEMA}),
    "structured_wrong": Case(
        Script.of(*[Turn(structured={"x": "b"})] * 9),
        ErrorCode.MODEL_INVALID_OUTPUT,
        told="required property 'a'",
        options={"json_schema": SCHEMA},
    ),
    "structured_missing": Case(
        Script.of(*[Turn(text="just text ")] * 3),
        ErrorCode.MODEL_INVALID_OUTPUT,
        "just text " * 2,
        0,
        told="without the structured output",
        options={"json_schema": SCHEMA},
    ),
    "max_turns": Case(
        Script.of(*[_bash("true")] * 3),
        ErrorCode.PROCESS_FAILED,
        "Let me.",
        told="maximum number of turns (1)",
        options={"max_turns": 1, **BASH},
    ),
    "max_budget": Case(
        Script.of(*[_bash("true")] * 3),
        ErrorCode.PROCESS_FAILED,
        "Let me.",
        told="maximum budget",
        options={"budget_usd": 0.01, **BASH},
    ),
    "tiny_budget": Case(
        Script.of(Turn(text=WORDS)),
        ErrorCode.PROCESS_FAILED,
        WORDS,
        told="maximum budget",
        options={"budget_usd": 1e-7},
    ),
    "resume_unknown": Case(
        Script.of(Turn(text=WORDS)),
        ErrorCode.PROCESS_FAILED,
        told="No conversation found",
        options={"resume": "00000000-0000-4000-8000-000000000000"},
    ),
}
# What the CLI does where work in the background is not turned off, as our command does: a result for each time that it
# was woken. Only recorded.
IN_THE_BACKGROUND: Mapping[str, Case] = {
    "background": Case(
        Script.of(_behind("sleep 2"), Turn(text="It runs."), Turn(text="It has ended.")),
        None,
        "I start it.It runs.It has ended.",
        0,
        options=BASH,
    ),
    "background_structured": Case(
        Script.of(_behind("sleep 2"), Turn(structured={"a": "b"}), *[Turn(text="Noted.")] * 2),
        None,
        "I start it.Noted.Noted.",
        0,
        options={"json_schema": SCHEMA, **BASH},
    ),
    "background_failed": Case(
        Script.of(_behind("sleep 2"), Turn(text="It runs."), Turn(fault=Fault(status=400, message="told so"))),
        ErrorCode.MODEL_ERROR,
        "I start it.It runs.",
        options=BASH,
    ),
}
