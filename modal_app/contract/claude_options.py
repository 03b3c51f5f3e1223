"""What a job may ask of the Claude CLI, checked so that nothing of it can become anything but what it says. Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import JsonValue

from modal_app.contract.caps import MAX_JSON_DEPTH, MAX_MCP_BYTES, MAX_PROMPT_BYTES, MAX_SCHEMA_BYTES, MAX_TOOLS
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.json_text import require_shallow

PermissionMode = Literal["acceptEdits", "auto", "bypassPermissions", "dontAsk", "manual", "plan"]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_TOOL = re.compile(r"[A-Za-z][A-Za-z0-9_*-]{0,127}(\([^\x00-\x1f\x7f]{1,256}\))?")


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
                _size(compact(self.json_schema)) <= MAX_SCHEMA_BYTES, f"json_schema: at most {MAX_SCHEMA_BYTES} bytes"
            )
        if self.mcp_config is not None:
            servers = self.mcp_config.get("mcpServers")
            _require(isinstance(servers, dict) and len(self.mcp_config) == 1, "mcp_config: must be {mcpServers: {…}}")
            _require(_size(compact(self.mcp_config)) <= MAX_MCP_BYTES, f"mcp_config: at most {MAX_MCP_BYTES} bytes")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(ErrorCode.INVALID_REQUEST, message)


def compact(value: Mapping[str, JsonValue]) -> str:
    """A value as JSON without spaces; raises ContractError for what is none."""
    try:
        text = json.dumps(dict(value), allow_nan=False, separators=(",", ":"))
        require_shallow(value)
    except (ValueError, TypeError, RecursionError):
        message = f"json_schema or mcp_config: is not JSON, or nested more than {MAX_JSON_DEPTH} deep"
        raise ContractError(ErrorCode.INVALID_REQUEST, message) from None
    return text


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))
