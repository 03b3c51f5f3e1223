"""JSON that a stranger wrote, read with a bounded depth.

Python's reader gives up at a depth that differs from version to version, and what it takes may still be too deep for
whoever handles it next: pydantic refuses a value from depth 255 and a text from 200 on, and a walk of our own ends at
Python's recursion limit. Here one limit holds for all of them.
"""

import json
from typing import NoReturn

from pydantic import JsonValue

from modal_app.contract.caps import MAX_JSON_DEPTH


def parse_json(text: str | bytes) -> JsonValue:
    """A JSON text as a value; raises ValueError for what is none, for NaN and Infinity, and for what is too deep."""
    try:
        value: JsonValue = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    require_shallow(value)
    return value


def require_shallow(value: object, max_depth: int = MAX_JSON_DEPTH) -> None:
    """Raise ValueError if lists and objects stand in each other more than `max_depth` deep."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError(f"the JSON is nested more than {max_depth} deep")


def count_of(value: JsonValue) -> int:
    """A number that counts something; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
