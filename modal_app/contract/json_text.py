"""Parses untrusted JSON with a bounded depth of nesting.

Python's parser gives up at a depth that differs from version to version, and what it accepts may still be too deep for
later code: pydantic refuses values from depth 255 on and texts from depth 200 on, and a recursive function ends at
Python's recursion limit. So one limit, MAX_JSON_DEPTH, holds for all of them.
"""

import json
import math
from typing import NoReturn

from pydantic import JsonValue

from modal_app.contract.caps import MAX_JSON_DEPTH


def parse_json(text: str | bytes) -> JsonValue:
    """Parse a JSON text; raises ValueError for invalid JSON, for NaN and Infinity, and for too deep a nesting."""
    try:
        value: JsonValue = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    require_shallow(value)
    return value


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:20]} is too large a number")
    return value


def require_shallow(value: object, max_depth: int = MAX_JSON_DEPTH) -> None:
    """Raise ValueError if lists and objects are nested more than `max_depth` deep."""
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
    """The value if it is an integer from 0 to 2**53 - 1, else 0; for counts in JSON that others wrote."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
