"""How the Claude CLI is called: from a typed request to arguments, environment and stdin. Pure.

What is secret, or long, never stands among the arguments: the prompt and the MCP configuration come on stdin, the token
in the environment. The CLI shows its environment to every command of its Bash tool, so the token must be worth nothing
outside its run. The CLI's settings live in the project, where any job may write them: none of them is read unless the
request asks for the project's skills.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from pydantic import JsonValue, SecretStr

from modal_app.contract.errors import ContractError, ErrorCode

CLI_PACKAGE = "@anthropic-ai/claude-code"
CLI_VERSION = "2.1.330"  # exact: an unpinned install gives another version on an older Node
CONFIG_DIR = "/workspace/.workbench/claude"  # sessions are kept with the project
MAX_PROMPT_BYTES = 1024 * 1024
MAX_SCHEMA_BYTES = 16 * 1024  # an argument, beside others
MAX_TOOLS = 64
MAX_MCP_BYTES = 64 * 1024

PermissionMode = Literal["acceptEdits", "auto", "bypassPermissions", "dontAsk", "manual", "plan"]

_MCP_FILE = "/tmp/mcp.json"  # noqa: S108  # a path in the sandbox, which is this run's alone
# The configuration comes first on stdin; `head` takes exactly its bytes, the rest is the prompt.
_WITH_MCP = 'umask 077; head -c "$1" > "$2" && shift 2 && exec "$@"'
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_TOOL = re.compile(r"[A-Za-z][A-Za-z0-9_*-]{0,127}(\([^\x00-\x1f\x7f]{1,256}\))?")


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
class ClaudeOptions:
    """What a job asks of the CLI. Raises ContractError `invalid_request` for what must not become an argument.

    `resume` is a session's id; `fork` goes on from it under a new one. `project_skills` also runs the hooks and takes
    the settings that stand in the project. `budget_usd` is by the CLI's own price list.
    """

    prompt: str
    resume: str | None = None
    fork: bool = False
    model: str | None = None
    max_turns: int | None = None
    budget_usd: float | None = None
    json_schema: Mapping[str, JsonValue] | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    permission_mode: PermissionMode = "acceptEdits"
    mcp_config: Mapping[str, JsonValue] | None = None
    project_skills: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.prompt.strip()), "prompt: may not be empty")
        _require(_size(self.prompt) <= MAX_PROMPT_BYTES, f"prompt: may be {MAX_PROMPT_BYTES} bytes long")
        _require(self.resume is None or bool(_UUID.fullmatch(self.resume)), "resume: must be a session's id")
        _require(not self.fork or self.resume is not None, "fork: needs a session to resume")
        _require(self.model is None or bool(_MODEL.fullmatch(self.model)), "model: is not a model's name")
        _require(self.permission_mode in get_args(PermissionMode), "permission_mode: is not one of the CLI's")
        _require(self.max_turns is None or self.max_turns >= 1, "max_turns: must be at least 1")
        budget = self.budget_usd
        _require(budget is None or (math.isfinite(budget) and budget > 0), "budget_usd: must be more than 0")
        for name, tools in (("allowed_tools", self.allowed_tools), ("disallowed_tools", self.disallowed_tools)):
            _require(len(tools) <= MAX_TOOLS, f"{name}: may name {MAX_TOOLS} tools")
            _require(all(_TOOL.fullmatch(tool) for tool in tools), f"{name}: each must be Name or Name(pattern)")
        if self.json_schema is not None:
            _require(
                _size(_json(self.json_schema)) <= MAX_SCHEMA_BYTES, f"json_schema: at most {MAX_SCHEMA_BYTES} bytes"
            )
        if self.mcp_config is not None:
            servers = self.mcp_config.get("mcpServers")
            _require(isinstance(servers, dict) and len(self.mcp_config) == 1, "mcp_config: must be {mcpServers: {…}}")
            _require(_size(_json(self.mcp_config)) <= MAX_MCP_BYTES, f"mcp_config: at most {MAX_MCP_BYTES} bytes")


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
    argv += ["--setting-sources", "project" if options.project_skills else "", "--strict-mcp-config"]
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
        argv += ["--max-budget-usd", f"{options.budget_usd:.6f}"]
    if options.json_schema is not None:
        argv += ["--json-schema", _json(options.json_schema)]
    if options.allowed_tools:
        argv += ["--allowedTools", *options.allowed_tools]
    if options.disallowed_tools:
        argv += ["--disallowedTools", *options.disallowed_tools]
    stdin = options.prompt.encode()
    if options.mcp_config is not None:
        config = _json(options.mcp_config).encode()
        argv = ["sh", "-c", _WITH_MCP, "sh", str(len(config)), mcp_file, *argv, "--mcp-config", mcp_file]
        stdin = config + stdin
    env = {
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": token.get_secret_value(),
        "CLAUDE_CONFIG_DIR": config_dir,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        **(patience or ModelPatience()).env(),
    }
    return Command(tuple(argv), stdin, MappingProxyType(env))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(ErrorCode.INVALID_REQUEST, message)


def _json(value: Mapping[str, JsonValue]) -> str:
    try:
        return json.dumps(dict(value), allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        raise ContractError(ErrorCode.INVALID_REQUEST, "json_schema or mcp_config: is not JSON") from None


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))
