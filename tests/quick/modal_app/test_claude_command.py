"""The CLI's command, as values: what is an argument, what never is, what is refused before it could become one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from modal_app.actions.claude_command import Command, ModelPatience, claude_command
from modal_app.contract.caps import MAX_MCP_BYTES, MAX_PROMPT_BYTES, MAX_SCHEMA_BYTES
from modal_app.contract.claude_options import ClaudeOptions
from modal_app.contract.errors import ContractError, ErrorCode

SESSION = "00000000-0000-4000-8000-000000000000"
TOKEN = SecretStr("the-run's-own-token")
MODAL_ARGUMENTS_BYTES = 65_536  # what Modal takes for one exec


def command(**options: Any) -> Command:
    return claude_command(ClaudeOptions(options.pop("prompt", "go"), **options), base_url="http://gateway", token=TOKEN)


def after(argv: tuple[str, ...], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_a_prompt_alone_is_a_whole_job() -> None:
    made = command(prompt="write a page")
    assert made.argv[:2] == ("claude", "-p")
    assert made.stdin == b"write a page"
    assert after(made.argv, "--setting-sources") == ""
    assert {"--verbose", "--include-partial-messages", "--strict-mcp-config"} <= set(made.argv)
    assert made.env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert made.env["CLAUDE_CONFIG_DIR"].startswith("/workspace/")


def test_every_option_becomes_its_argument() -> None:
    argv = command(
        resume=SESSION,
        fork=True,
        model="opus",
        max_turns=3,
        budget_usd=0.5,
        json_schema={"type": "object"},
        allowed_tools=("Bash(git *)", "Write"),
        disallowed_tools=("WebFetch",),
        permission_mode="plan",
        project_skills=True,
    ).argv
    pairs = {
        "--resume": SESSION,
        "--model": "opus",
        "--max-turns": "3",
        "--max-budget-usd": "0.5",
        "--json-schema": '{"type":"object"}',
        "--permission-mode": "plan",
        "--setting-sources": "project",
        "--disallowedTools": "WebFetch",
    }
    assert {option: after(argv, option) for option in pairs} == pairs
    assert argv[argv.index("--allowedTools") :][:3] == ("--allowedTools", "Bash(git *)", "Write")
    assert "--fork-session" in argv


def test_neither_the_token_nor_the_prompt_nor_a_servers_secret_is_an_argument() -> None:
    servers = {"mcpServers": {"s": {"command": "x", "env": {"KEY": "the-server's-secret"}}}}
    made = command(prompt="the prompt", mcp_config=servers)
    assert not [one for one in made.argv for word in ("token", "prompt", "secret") if word in one]
    assert "token" not in repr(made)
    length = int(made.argv[4])
    assert json.loads(made.stdin[:length]) == servers
    assert made.stdin[length:] == b"the prompt"
    assert made.argv[-2:] == ("--mcp-config", made.argv[5])


@pytest.mark.parametrize("prompt", ["/help", "/clear", "/", "//x", "/model haiku", "/usr/bin/python is broken"])
def test_a_prompt_that_begins_with_a_slash_is_no_command_of_the_cli(prompt: str) -> None:
    assert command(prompt=prompt).stdin.decode() == f" {prompt}"
    servers = {"mcpServers": {}}
    assert command(prompt=prompt, mcp_config=servers).stdin.decode().endswith(f" {prompt}")
    for other in (f" {prompt}", f"\n{prompt}", f"see {prompt}"):
        assert command(prompt=other).stdin.decode() == other


@pytest.mark.parametrize("budget", [1e-7, 3e-9, 5e-324, 0.0000015, 0.1, 1 / 3, 12.0, 1e22])
def test_a_budget_is_told_exactly(budget: float) -> None:
    assert float(after(command(budget_usd=budget).argv, "--max-budget-usd")) == budget


def test_nothing_goes_on_after_the_answer_nor_is_remembered_for_the_next_job() -> None:
    """By variables and tools, and the project's settings cannot undo it: those of the command line win."""
    made = command(disallowed_tools=("WebFetch",), project_skills=True)
    denied = made.argv[made.argv.index("--disallowedTools") + 1 :][:5]
    assert set(denied) == {"WebFetch", "Monitor", "ScheduleWakeup", "CronCreate", "Workflow"}
    for name in ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "CLAUDE_CODE_DISABLE_AUTO_MEMORY"):
        assert made.env[name] == "1"
    settings = json.loads(after(made.argv, "--settings"))
    assert settings["env"] == {name: value for name, value in made.env.items() if name != "ANTHROPIC_API_KEY"}


def test_patience_ends_within_a_minute() -> None:
    """Attempts that hang before their headers, and a stream that hangs: neither takes a minute to be seen."""
    patience = ModelPatience()
    assert (patience.max_retries + 1) * patience.headers_s < 55
    assert 10 <= patience.idle_s < 55
    assert "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK" not in ModelPatience(second_answer=True).env()


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": " \n"},
        {"prompt": "\ufeff"},
        {"prompt": "\n\ufeff \ufeff"},
        {"prompt": "\u00a0\u2003"},
        {"prompt": "x" * (MAX_PROMPT_BYTES + 1)},
        {"resume": "--dangerously-skip-permissions"},
        {"resume": SESSION.replace("-", "")},
        {"resume": SESSION + "\n"},
        {"fork": True},
        {"model": "--settings=x"},
        {"model": ""},
        {"max_turns": 0},
        {"budget_usd": 0.0},
        {"budget_usd": float("nan")},
        {"budget_usd": float("inf")},
        {"allowed_tools": ("--settings",)},
        {"allowed_tools": ("Bash(a\nb)",)},
        {"disallowed_tools": ("",)},
        {"allowed_tools": ("Read",) * 65},
        {"json_schema": {"description": "x" * MAX_SCHEMA_BYTES}},
        {"json_schema": {"minimum": float("nan")}},
        {"mcp_config": {}},
        {"mcp_config": {"mcpServers": {}, "more": 1}},
        {"mcp_config": {"mcpServers": {"x": "y" * MAX_MCP_BYTES}}},
        {"permission_mode": "--settings"},
    ],
    ids=str,
)
def test_what_must_not_become_an_argument_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ContractError) as caught:
        command(**options)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


LONGEST = ("Bash" * 32 + "(" + "ü" * 256 + ")",) * 64


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_of_a_request_becomes_an_option(resume: str, model: str, allowed: str, denied: str) -> None:
    """However a request is filled, the only options are those that stand here."""
    try:
        argv = command(resume=resume, model=model, allowed_tools=(allowed,), disallowed_tools=(denied,)).argv
    except ContractError:
        return
    assert [one for one in argv if one in (resume, model, allowed, denied) and one.startswith("-")] == []


def test_the_largest_command_fits_modal() -> None:
    """And no larger one is taken: the platform would refuse it after the sandbox was made."""
    tools = ("Bash(" + "x" * 249 + ")",) * 64
    options = {"allowed_tools": tools, "disallowed_tools": tools}
    made = command(json_schema={"description": "x" * (MAX_SCHEMA_BYTES - 50)}, **options)
    assert sum(len(one) + 1 for one in made.argv) < MODAL_ARGUMENTS_BYTES
    with pytest.raises(ContractError, match="together"):
        command(json_schema={"description": "x" * (MAX_SCHEMA_BYTES - 50)}, **options | {"allowed_tools": LONGEST})
