"""`python -m tests.support.claude.record [CASE …]`: what the real CLI prints for every case, for the parser's tests.

Run it after the CLI's version changes, and read the difference: it is what changed in the format.
"""

import asyncio
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from modal_app.actions.claude_command import Command, claude_command
from modal_app.contract.claude_options import ClaudeOptions
from tests.support.claude import cli
from tests.support.claude.cases import CASES, IN_THE_BACKGROUND
from tests.support.paths import RECORDED
from workbench.benchmarks import claude_cli
from workbench.scripted_model import ScriptedModel

_ALL = {**CASES, **IN_THE_BACKGROUND}
_LONG = ("tools", "slash_commands", "terminal_slash_commands", "skills", "agents", "plugins")


async def record(name: str) -> None:
    """Run one case and keep its stdout, with this machine's paths and the CLI's long lists taken out."""
    case = _ALL[name]
    with tempfile.TemporaryDirectory(prefix="workbench-record-") as scratch:
        workspace = Path(scratch)
        async with ScriptedModel(case.script) as model:
            command = claude_command(
                ClaudeOptions("go", **case.options),
                base_url=model.url,
                token=model.key,
                patience=case.patience,
                program=str(claude_cli.program()),
                config_dir=str(workspace / ".claude-config"),
            )
            if name in IN_THE_BACKGROUND:
                command = _as_the_cli_would(command)
            ended = await cli.run(command, workspace)
            port = model.url.rpartition(":")[2]
    text = ended.stdout.decode().replace(str(workspace), "/workspace").replace(f":{port}", ":8000")
    text = text.replace(str(workspace).replace("/", "-").replace("_", "-"), "-workspace")
    lines = [_short(line) for line in text.splitlines()]
    (RECORDED / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _as_the_cli_would(command: Command) -> Command:
    """A command whose CLI may go on in the background."""
    at = command.argv.index("--settings")
    env = {name: value for name, value in command.env.items() if "BACKGROUND" not in name}
    return replace(command, argv=command.argv[:at] + command.argv[at + 2 :], env=env)


def _short(line: str) -> str:
    value = json.loads(line)
    if value.get("subtype") != "init":
        return line
    kept = {key: item[:3] if key in _LONG else item for key, item in value.items() if "path" not in key}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


async def _main(names: list[str]) -> None:
    RECORDED.mkdir(exist_ok=True)
    for name in names or _ALL:
        await record(name)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
