"""Makes the command line of the Claude CLI from checked options: arguments, environment and stdin. Pure.

Nothing secret or long is an argument: the prompt and the MCP configuration come on stdin, the token in the environment.
Every command of the CLI's Bash tool sees that environment, so the token must be worthless outside its run. The project
may hold settings for the CLI, which any job may have written: they are read only if the request asks for the project's
skills, and even then they cannot override the settings made here. The CLI's memory of earlier jobs is off: a job knows
its prompt, its project, and the session that it was told to resume.

A run ends with the model's answer. Tools that work on after it, or wake the model later, are turned off: with them the
CLI would give a second result, or keep a finished job running.
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

# Tools that wake the model later instead of answering. Bash and subagents are kept in the foreground by a variable.
_WAKING_TOOLS = ("CronCreate", "Monitor", "ScheduleWakeup", "Workflow")
_FIXED_ENV = {
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
    """How long the CLI waits for the model, short enough for every failure of the model to show within a minute.

    `headers_s` is for the beginning of an answer, `idle_s` for the next byte of it, both in seconds; the CLI raises an
    `idle_s` of less than 10 to 10. Pings are bytes, too: a model that only sends pings is noticed as a stalled job. A
    stream that breaks is asked for again up to `max_retries` times; one that falls silent or is malformed is an error
    at once. With `second_answer`, the CLI instead asks once more without streaming.
    """

    max_retries: int = 2
    headers_s: float = 15
    idle_s: float = 20
    second_answer: bool = False

    def env(self) -> dict[str, str]:
        """The environment variables that set this in the CLI."""
        return {
            "CLAUDE_CODE_MAX_RETRIES": str(self.max_retries),
            "API_TIMEOUT_MS": str(int(self.headers_s * 1000)),
            "CLAUDE_ENABLE_BYTE_WATCHDOG": "1",
            "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": str(int(self.idle_s * 1000)),
            **({} if self.second_answer else {"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1"}),
        }


@dataclass(frozen=True)
class Command:
    """A process to be started: arguments, the bytes of its stdin, which is then to be closed, and its environment."""

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
    """The command of one job; raises ContractError when a JSON option is too deep.

    `base_url` is the model gateway's address as the sandbox reaches it, `token` the run's token.
    """
    argv = [program, "-p", "--verbose", "--output-format", "stream-json", "--include-partial-messages"]
    public_env = {
        "ANTHROPIC_BASE_URL": base_url,
        "CLAUDE_CONFIG_DIR": config_dir,
        **_FIXED_ENV,
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
    argv += ["--disallowedTools", *options.disallowed_tools, *_WAKING_TOOLS]
    stdin = _as_text(options.prompt).encode()
    if options.mcp_config is not None:
        config = compact(options.mcp_config).encode()
        argv = ["sh", "-c", _WITH_MCP, "sh", str(len(config)), mcp_file, *argv, "--mcp-config", mcp_file]
        stdin = config + stdin
    env = {**public_env, "ANTHROPIC_API_KEY": token.get_secret_value()}
    return Command(tuple(argv), stdin, MappingProxyType(env))


def _as_text(prompt: str) -> str:
    """The prompt with a space before a leading slash, which the CLI would otherwise take for a command of its own."""
    return f" {prompt}" if prompt.startswith("/") else prompt
