"""The real CLI does what its command says: it writes files, goes on with sessions, runs nothing of the workspace."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from modal_app.actions.claude_command import CLI_VERSION
from modal_app.actions.claude_stream import ClaudeStream
from modal_app.actions.claude_verdict import Verdict
from modal_app.contract.claude import ClaudeOptions
from tests.standard.claude.cli.conftest import Calls
from tests.support.claude import cli
from workbench.scripted_model import Script, ScriptedModel, Tool, Turn

KEY_VARIABLE = "ANTHROPIC_API_KEY"
SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    match asked["method"]:
        case "initialize":
            version, info = asked["params"]["protocolVersion"], {"name": "t", "version": "1"}
            given = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            given = {"tools": [{"name": "say", "description": "says", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            given = {"content": [{"type": "text", "text": "said by the server"}]}
        case _:
            given = {}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": given}), flush=True)
"""


def verdict(ended: cli.Ended) -> Verdict:
    stream = ClaudeStream(clock=lambda: 0.0)
    stream.feed(ended.stdout)
    stream.finish()
    return stream.verdict(ended.returncode)


def parsed(ended: cli.Ended, kind: str) -> list[dict[str, Any]]:
    return [value for value in map(json.loads, ended.lines) if value["type"] == kind]


async def test_a_job_writes_files_through_the_clis_own_tools(call: Calls, workspace: Path) -> None:
    page, style = workspace / "site" / "index.html", workspace / "site" / "style.css"
    script = Script.of(
        Turn(
            text="I write both files.",
            tools=(
                Tool(name="Write", input={"file_path": str(page), "content": "<h1>hello</h1>\n"}),
                Tool(name="Write", input={"file_path": str(style), "content": "h1 { color: teal }\n"}),
            ),
        ),
        Turn(
            tools=(
                Tool(name="Edit", input={"file_path": str(page), "old_string": "hello", "new_string": "Hello, world"}),
            )
        ),
        Turn(text="Done."),
    )
    async with ScriptedModel(script) as model:
        ended = await cli.run(call(model.url, model.key, "a page please"), workspace)
    assert verdict(ended).error is None, ended.stdout.decode()
    assert page.read_text() == "<h1>Hello, world</h1>\n"
    assert style.read_text() == "h1 { color: teal }\n"
    assert all(asked.accepted and asked.path == "/v1/messages?beta=true" for asked in model.asked)
    assert [asked.headers["user-agent"].split()[0] for asked in model.asked] == [f"claude-cli/{CLI_VERSION}"] * 3
    last = model.asked[-1].body
    assert isinstance(last, dict)
    assert "updated successfully" in json.dumps(last["messages"])


async def test_a_session_goes_on_and_can_be_forked(call: Calls, workspace: Path) -> None:
    script = Script.of(Turn(text="First."), Turn(text="Second."), Turn(text="Third."))
    async with ScriptedModel(script) as model:
        first = verdict(await cli.run(call(model.url, model.key, "remember teal"), workspace))
        assert first.session_id is not None
        again = ClaudeOptions("and now?", resume=first.session_id)
        second = verdict(await cli.run(call(model.url, model.key, again), workspace))
        fork = ClaudeOptions("another way", resume=first.session_id, fork=True)
        third = verdict(await cli.run(call(model.url, model.key, fork), workspace))
    assert [one.result for one in (first, second, third)] == ["First.", "Second.", "Third."]
    assert second.session_id == first.session_id
    assert third.session_id not in (None, first.session_id)
    assert "remember teal" in json.dumps(model.asked[2].body)
    assert list((workspace / ".workbench" / "claude" / "projects").rglob(f"{first.session_id}.jsonl"))


def _lay_traps(workspace: Path) -> Path:
    """Settings, hooks, helpers and servers wherever an earlier job could have left them; each leaves a file."""
    sprung = workspace.parent / "sprung"
    sprung.mkdir()
    config = workspace / ".workbench" / "claude"
    project = workspace / ".claude"
    for directory in (config, project):
        directory.mkdir(parents=True)
    for name, path in (
        ("project", project / "settings.json"),
        ("local", project / "settings.local.json"),
        ("user", config / "settings.json"),
    ):
        events = ("SessionStart", "UserPromptSubmit", "PreToolUse", "Stop", "SessionEnd")
        hooks = {
            event: [{"matcher": "*", "hooks": [{"type": "command", "command": f"touch {sprung}/{name}-{event}"}]}]
            for event in events
        }
        helper = f"touch {sprung}/{name}-helper; echo key"
        path.write_text(json.dumps({"hooks": hooks, "apiKeyHelper": helper, "env": {"TRAP": name}}))
    for name, path in (("project", workspace / ".mcp.json"), ("user", config / ".claude.json")):
        server = {"command": "sh", "args": ["-c", f"touch {sprung}/{name}-server"]}
        path.write_text(json.dumps({"mcpServers": {"trap": server}}))
    for name, directory in (("user", config), ("project", project)):
        skill = directory / "skills" / "trap" / "SKILL.md"
        skill.parent.mkdir(parents=True)
        skill.write_text(f"---\nname: trap-{name}\ndescription: a trap\n---\nSpring.\n")
        (directory / "CLAUDE.md").write_text(f"instructions of {name}")
    return sprung


SHOW = Script.of(Turn(tools=(Tool(name="Bash", input={"command": "env > env.txt"}),)), Turn(text="Done."))


async def test_nothing_that_stands_in_the_workspace_is_run_or_believed(call: Calls, workspace: Path) -> None:
    sprung = _lay_traps(workspace)
    async with ScriptedModel(SHOW) as model:
        options = ClaudeOptions("go", allowed_tools=("Bash",))
        ended = await cli.run(call(model.url, model.key, options), workspace)
    assert verdict(ended).error is None, ended.stdout.decode()
    assert list(sprung.iterdir()) == []
    assert "TRAP" not in (workspace / "env.txt").read_text()
    (init,) = [value for value in parsed(ended, "system") if value["subtype"] == "init"]
    assert "trap" not in json.dumps(init)
    assert "instructions of" not in json.dumps(model.asked[0].body)


async def test_project_skills_bring_the_projects_settings_and_hooks_and_nobody_elses(
    call: Calls, workspace: Path
) -> None:
    sprung = _lay_traps(workspace)
    async with ScriptedModel(SHOW) as model:
        options = ClaudeOptions("go", allowed_tools=("Bash",), project_skills=True)
        ended = await cli.run(call(model.url, model.key, options), workspace)
    assert verdict(ended).result == "Done."
    assert {path.name.split("-")[0] for path in sprung.iterdir()} == {"project"}
    assert "project-server" not in {path.name for path in sprung.iterdir()}, "servers come with the request alone"
    (init,) = [value for value in parsed(ended, "system") if value["subtype"] == "init"]
    assert [skill for skill in init["skills"] if "trap" in skill] == ["trap"]


async def test_a_server_of_the_request_is_used_and_its_configuration_is_private(call: Calls, workspace: Path) -> None:
    program = workspace.parent / "server.py"
    program.write_text(SERVER)
    config: dict[str, Any] = {"mcpServers": {"t": {"command": sys.executable, "args": [str(program)]}}}
    script = Script.of(Turn(tools=(Tool(name="mcp__t__say"),)), Turn(text="Heard."))
    async with ScriptedModel(script) as model:
        options = ClaudeOptions("go", mcp_config=config, allowed_tools=("mcp__t__say",))
        ended = await cli.run(call(model.url, model.key, options), workspace)
    assert verdict(ended).error is None, ended.stdout.decode()
    assert "said by the server" in json.dumps(model.asked[-1].body)
    assert "go" in json.dumps(model.asked[0].body), "the prompt is what follows the configuration"
    assert (workspace.parent / "mcp.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_only_a_signal_that_it_can_answer_ends_what_its_bash_tool_started(
    number: int, call: Calls, workspace: Path
) -> None:
    """Each command is the leader of a session of its own: no kill of the CLI's group reaches it."""
    script = Script.of(Turn(tools=(Tool(name="Bash", input={"command": "echo $$ > pid; sleep 300"}),)))
    async with ScriptedModel(script) as model:
        command = call(model.url, model.key, ClaudeOptions("go", allowed_tools=("Bash",)))
        running = asyncio.create_task(cli.run(command, workspace))
        family: list[psutil.Process] = []
        try:
            async with asyncio.timeout(60):
                while not (leader := _leader(workspace)):  # noqa: ASYNC110  # another process writes the file
                    await asyncio.sleep(0.02)
            family = [psutil.Process(leader), *psutil.Process(leader).children(recursive=True)]
            assert os.getsid(leader) == leader
            os.kill(_claude(workspace), number)
            await running
            _, alive = psutil.wait_procs(family, timeout=0.5 if number == signal.SIGKILL else 20)
            assert bool(alive) == (number == signal.SIGKILL)
        finally:
            running.cancel()
            for process in family:
                if process.is_running():
                    process.kill()
            psutil.wait_procs(family, timeout=10)


def _leader(workspace: Path) -> int:
    path = workspace / "pid"
    return int(path.read_text().strip() or 0) if path.exists() else 0


def _claude(workspace: Path) -> int:
    """The CLI that works in a workspace."""
    children = psutil.Process().children()
    (found,) = [child.pid for child in children if child.cwd() == str(workspace)]
    return found


@pytest.mark.anthropic_key
@pytest.mark.skipif(KEY_VARIABLE not in os.environ, reason="needs an Anthropic API key")
async def test_the_real_service_answers(call: Calls, workspace: Path) -> None:
    """The same command against Anthropic."""
    key = SecretStr(os.environ[KEY_VARIABLE])
    options = ClaudeOptions("Write the word hello into hello.txt, then stop.", model="haiku", max_turns=6)
    ended = await cli.run(call("https://api.anthropic.com", key, options), workspace, timeout_s=110)
    assert verdict(ended).error is None
    assert "hello" in (workspace / "hello.txt").read_text()
