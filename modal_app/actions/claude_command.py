"""How the Claude CLI is called: from checked options to arguments, environment and stdin. Pure.

What is secret, or long, never stands among the arguments: the prompt and the MCP configuration come on stdin, the token
in the environment. The CLI shows its environment to every command of its Bash tool, so the token must be worth nothing
outside its run. The CLI's settings live in the project, where any job may write them: none of them is read unless the
request asks for the project's skills, and then they do not change what is said here. Nor is what the CLI would remember
of one job for the next: a job knows its prompt, its project, and the session that it was told to resume.

A run ends with the model's answer. What would go on after it, or wake the model later, is turned off: the CLI would
give a second result, or hold a job that is done for as long as something runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import SecretStr

from modal_app.contract.claude_options import ClaudeOptions, compact

CLI_PACKAGE = "@anthropic-ai/claude-code"
CLI_VERSION = "2.1.332"  # exact: an unpinned install gives another version on an older Node
CONFIG_DIR = "/workspace/.workbench/claude"  # sessions are kept with the project

# Tools that give no answer but wake the model later. Bash and subagents are kept from it by a variable.
_LATER = ("CronCreate", "Monitor", "ScheduleWakeup", "Workflow")
_ALWAYS = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "DISABLE_AUTOUPDATER": "1",
}
_MCP_FILE = "/tmp/mcp.json"  # noqa: S108  # a path in the sandbox, which is this run's alone
# The configuration comes first on stdin; `head` takes exactly its bytes, the rest is the prompt.
_WITH_MCP = 'umask 077; head -c "$1" > "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True)
class ModelPatience:
    """How long the CLI waits for the model, so that no failure of it takes a minute to be seen.

    `headers_s` is for the beginning of an answer, `idle_s` for the next byte of it, where the CLI takes less than 10
    for 10. Pings are bytes: a model that only pings is found by the job's silence. With `second_answer` it asks again
    without streaming after a stream that broke; without, a stream that breaks is asked for `max_retries` times more at
    most, and one that falls silent or talks nonsense is an error at once.
    """

    max_retries: int = 2
    headers_s: float = 15
    idle_s: float = 20
    second_answer: bool = False

    def env(self) -> dict[str, str]:
        """The CLI's variables for it."""
        return {
            "CLAUDE_CODE_MAX_RETRIES": str(self.max_retries),
            "API_TIMEOUT_MS": str(int(self.headers_s * 1000)),
            "CLAUDE_ENABLE_BYTE_WATCHDOG": "1",
            "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": str(int(self.idle_s * 1000)),
            **({} if self.second_answer else {"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1"}),
        }


@dataclass(frozen=True)
class Command:
    """A process to be started; stdin is to be closed after it."""

    argv: tuple[str, ...]
    stdin: bytes = field(repr=False)
    env: Mapping[str, str] = field(repr=False)


def claude_command(
    options: ClaudeOptions,
    *,
    base_url: str,
    token: SecretStr,
    patience: ModelPatience | None = None,
    program: str = "claude",
    config_dir: str = CONFIG_DIR,
    mcp_file: str = _MCP_FILE,
) -> Command:
    """The command of one job. `base_url` is the model gateway as the sandbox reaches it, `token` the run's own."""
    argv = [program, "-p", "--verbose", "--output-format", "stream-json", "--include-partial-messages"]
    public_env = {
        "ANTHROPIC_BASE_URL": base_url,
        "CLAUDE_CONFIG_DIR": config_dir,
        **_ALWAYS,
        **(patience or ModelPatience()).env(),
    }
    argv += ["--setting-sources", "project" if options.project_skills else "", "--strict-mcp-config"]
    argv += ["--settings", json.dumps({"env": public_env})]  # the project's settings have an `env`, too; this one wins
    argv += ["--permission-mode", options.permission_mode]
    if options.resume is not None:
        argv += ["--resume", options.resume]
    if options.fork:
        argv.append("--fork-session")
    if options.model is not None:
        argv += ["--model", options.model]
    if options.max_turns is not None:
        argv += ["--max-turns", str(options.max_turns)]
    if options.budget_usd is not None:
        argv += ["--max-budget-usd", repr(options.budget_usd)]  # exact, however small
    if options.json_schema is not None:
        argv += ["--json-schema", compact(options.json_schema)]
    if options.allowed_tools:
        argv += ["--allowedTools", *options.allowed_tools]
    argv += ["--disallowedTools", *options.disallowed_tools, *_LATER]
    stdin = _as_text(options.prompt).encode()
    if options.mcp_config is not None:
        config = compact(options.mcp_config).encode()
        argv = ["sh", "-c", _WITH_MCP, "sh", str(len(config)), mcp_file, *argv, "--mcp-config", mcp_file]
        stdin = config + stdin
    env = {**public_env, "ANTHROPIC_API_KEY": token.get_secret_value()}
    return Command(tuple(argv), stdin, MappingProxyType(env))


def _as_text(prompt: str) -> str:
    """A prompt that the CLI gives to the model: one that begins with a slash it would run as a command of its own."""
    return f" {prompt}" if prompt.startswith("/") else prompt
