"""Writes the contract's constants for TypeScript: names of headers, limits, deadlines and the table of codes.

The deadlines are those that `workbench deploy` would give an endpoint with the same environment variables.
"""

import json

from modal_app.contract.caps import MAX_BODY_BYTES, MAX_KEY_CHARS
from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from modal_app.contract.openapi import errors
from modal_app.endpoint_settings import Timeouts

# Deadlines that a caller has to know, in seconds, each with what it means to him.
_DEADLINES = {
    "heartbeat_s": "Seconds between two comments on a quiet stream. After a multiple of it, the connection is dead.",
    "disconnect_grace_s": "Seconds for which a run goes on without a reader, before it is cancelled.",
    "send_s": "Seconds for which a reader may take nothing, before its connection is cut.",
    "process_s": "Seconds that a job may take, unless its request gives it less.",
    "sandbox_s": "Seconds that a run may take as a whole.",
    "function_s": "Seconds that the endpoint works at one request: then a stream is cut, and is to be resumed.",
    "upstream_s": "Seconds that a server in front of the endpoint should let a stream last.",
    "keep_s": "Seconds for which a run can be read after its end.",
}
_HEAD = """\
/**
 * The contract's constants. `workbench contract constants` writes them; do not change them here.
 */
import type { ErrorTable } from "./generate";
"""
_TABLE = "/** What each code means, its status before a stream, and whether the same request may succeed later. */"


def constants(timeouts: Timeouts) -> str:
    """The text of `constants.ts`."""
    values: list[tuple[str, object, str]] = [
        ("SECRET_HEADER", SECRET_HEADER, "The header that holds the endpoint's secret. For servers alone."),
        ("RUN_HEADER", RUN_HEADER, "The header of an answer that holds the run's id."),
        ("KEY_HEADER", KEY_HEADER, "The header that makes a repeated request find the run that it has started."),
        ("MAX_KEY_CHARS", MAX_KEY_CHARS, "Characters of such a key, at most."),
        ("MAX_BODY_BYTES", MAX_BODY_BYTES, "Bytes of a request, at most."),
        *((name.upper(), getattr(timeouts, name), why) for name, why in _DEADLINES.items()),
    ]
    told = [f"/** {why} */\nexport const {name} = {json.dumps(value)};\n" for name, value, why in values]
    table = f"{_TABLE}\nexport const ERRORS = {json.dumps(errors(), indent=2)} as const satisfies ErrorTable;\n"
    return "\n".join([_HEAD, *told, table])
