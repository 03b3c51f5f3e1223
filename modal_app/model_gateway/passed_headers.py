"""Which headers of a sandbox's request are passed on to the model's service, and with which values. Pure.

`anthropic-beta` turns on abilities of the service. The values that are known to change only the conversation itself are
listed here; every other one is refused.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from modal_app.model_gateway.error_answers import Refusal, shown

BETA = "anthropic-beta"
PASSED_ON = ("anthropic-version", BETA, "user-agent", "x-app", "x-claude-code-session-id")
# What the Claude CLI asks for, except what acts at the service (search, fetch, files, MCP servers, advisors), stores
# conversations there, or lets another model answer than the one that was asked.
BETAS = frozenset(
    {
        "advanced-tool-use-2025-11-20",
        "afk-mode-2026-01-31",
        "auto-mode-classifier-2026-07-16",
        "cache-diagnosis-2026-04-07",
        "cache-keepalive-2026-09-03",
        "claude-code-20250219",
        "claude-code-side-query-2026-09-29",
        "context-1m-2025-08-07",
        "context-hint-2026-04-09",
        "context-management-2025-06-27",
        "dangerous-tool-use-2026-09-03",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fallback-credit-2026-06-01",
        "fast-mode-2026-02-01",
        "fine-grained-tool-streaming-2025-05-14",
        "inline-tools-2026-09-15",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-system-2026-04-07",
        "mid-conversation-system-clear-at-2026-08-21",
        "mid-conversation-tool-changes-2026-07-01",
        "per-turn-control-2026-07-01",
        "program-use-case-ids-2026-09-17",
        "prompt-caching-2024-07-31",
        "prompt-caching-evict-2026-05-12",
        "prompt-caching-scope-2026-01-05",
        "redact-thinking-2026-02-12",
        "resumption-2026-10-08",
        "structured-outputs-2025-12-15",
        "subagent-review-2026-11-17",
        "task-budgets-2026-03-13",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "thinking-resumption-2026-07-17",
        "thinking-token-count-2026-05-13",
        "timing-2026-09-09",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
        "tool-provenance-2026-10-26",
        "tool-search-tool-2025-10-19",
    }
)
_VALUE = re.compile(r"[\x20-\x7e\t]{0,2000}")
_BETA = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")


class Headers(Protocol):
    """The headers of a request."""

    def getlist(self, key: str) -> list[str]:
        """The values of all headers of this name."""
        ...


def passed_on(headers: Headers, *, server_tools: bool = False) -> dict[str, str]:
    """The headers to pass on; raises Refusal for a value that is not printable ASCII, or a beta that is not allowed."""
    found = {name: headers.getlist(name) for name in PASSED_ON}
    for name, values in found.items():
        if not all(map(_VALUE.fullmatch, values)):
            raise Refusal(400, f"{name}: must be at most 2000 printable characters of ASCII", reason="header")
    _check_betas(found[BETA], server_tools=server_tools)
    return {name: ", ".join(values) for name, values in found.items() if values}


def _check_betas(values: Sequence[str], *, server_tools: bool) -> None:
    for beta in (part.strip() for value in values for part in value.split(",")):
        if beta and not _BETA.fullmatch(beta):
            raise Refusal(400, f"{BETA}: {shown(beta)} is not the name of a beta", reason="header")
        if beta and beta not in BETAS and not server_tools:
            message = f"{BETA}: {shown(beta)} is not allowed: unknown to the gateway, or acts at the service itself"
            raise Refusal(403, message, reason="beta")
