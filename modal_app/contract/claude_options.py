"""The options of a Claude CLI job, checked so that no value can be taken for another argument or command. Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import JsonValue

from modal_app.contract.caps import (
    MAX_JSON_DEPTH,
    MAX_MCP_BYTES,
    MAX_OPTIONS_BYTES,
    MAX_PROMPT_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_TOOLS,
)
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.json_text import require_shallow

PermissionMode = Literal["acceptEdits", "auto", "bypassPermissions", "dontAsk", "manual", "plan"]

_BYTE_ORDER_MARK = "\ufeff"  # a blank for the CLI, which takes no prompt of blanks
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_TOOL = re.compile(r"[A-Za-z][A-Za-z0-9_*-]{0,127}(\([^\x00-\x1f\x7f]{1,256}\))?")


@dataclass(frozen=True)
class ClaudeOptions:
    """The options of one job. Raises ContractError `invalid_request` for a value that is not allowed.

    `resume` is the id of a session to continue; with `fork`, the job continues it under a new id. `project_skills`
    makes the CLI use the project's skills, and with them its hooks and settings. `budget_usd` is in US dollars by the
    CLI's own price list.
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
        size = _size(self.prompt)
        _require(bool(self.prompt.replace(_BYTE_ORDER_MARK, " ").strip()), "prompt: may not be empty")
        _require(size <= MAX_PROMPT_BYTES, f"prompt: has {size} bytes, and may have at most {MAX_PROMPT_BYTES}")
        _require(
            self.resume is None or bool(_UUID.fullmatch(self.resume)),
            "resume: must be the id of a session, a canonical lower-case UUID",
        )
        _require(not self.fork or self.resume is not None, "fork: needs a session in `resume`")
        _require(
            self.model is None or bool(_MODEL.fullmatch(self.model)),
            "model: is not a model's name: up to 128 letters, digits and ._:/@[]-, the first a letter or digit",
        )
        modes = get_args(PermissionMode)
        _require(self.permission_mode in modes, f"permission_mode: must be one of {', '.join(modes)}")
        _require(self.max_turns is None or self.max_turns >= 1, "max_turns: must be at least 1")
        budget = self.budget_usd
        _require(budget is None or (math.isfinite(budget) and budget > 0), "budget_usd: must be a number above 0")
        for name, tools in (("allowed_tools", self.allowed_tools), ("disallowed_tools", self.disallowed_tools)):
            _require(len(tools) <= MAX_TOOLS, f"{name}: names {len(tools)} tools, and may name at most {MAX_TOOLS}")
            _require(all(_TOOL.fullmatch(tool) for tool in tools), f"{name}: each must be Name or Name(pattern)")
        together = sum(_size(tool) + 1 for tool in (*self.allowed_tools, *self.disallowed_tools))
        if self.json_schema is not None:
            schema_bytes = _size(compact(self.json_schema))
            _require(schema_bytes <= MAX_SCHEMA_BYTES, f"json_schema: at most {MAX_SCHEMA_BYTES} bytes")
            together += schema_bytes
        _require(
            together <= MAX_OPTIONS_BYTES,
            f"allowed_tools, disallowed_tools, json_schema: have {together} bytes together, and may have at most "
            f"{MAX_OPTIONS_BYTES}",
        )
        if self.mcp_config is not None:
            servers = self.mcp_config.get("mcpServers")
            _require(isinstance(servers, dict) and len(self.mcp_config) == 1, "mcp_config: must be {mcpServers: {…}}")
            _require(_size(compact(self.mcp_config)) <= MAX_MCP_BYTES, f"mcp_config: at most {MAX_MCP_BYTES} bytes")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(ErrorCode.INVALID_REQUEST, message)


def compact(value: Mapping[str, JsonValue]) -> str:
    """A value as JSON without spaces. Raises ContractError for a value that is not JSON or is nested too deeply."""
    try:
        text = json.dumps(dict(value), allow_nan=False, separators=(",", ":"))
        require_shallow(value)
    except (ValueError, TypeError, RecursionError):
        message = f"json_schema or mcp_config: is not JSON, or nested more than {MAX_JSON_DEPTH} deep"
        raise ContractError(ErrorCode.INVALID_REQUEST, message) from None
    return text


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))
