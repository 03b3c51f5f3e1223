#!/bin/sh
# pydantic 2.14.3 (pydantic-core 2.50.4), CPython 3.11
#
# One server writes Server-Sent Events from a pydantic model that has a JsonValue field, such as a line of the Claude
# CLI's stream-json passed on as it is; a reader parses them with the very same model.
#
# Likely guess: what model_dump_json() has written, model_validate_json() of the same model reads.
# Seen: between about 200 and 253 levels of nesting the model accepts the value (validate_python) and writes it, and
# refuses to read its own text (json_invalid, a recursion limit); soon beyond it does not accept the value at all.
# json.dumps and json.loads take all of these depths.
#
# Why it matters: whoever decides by "it could be written, so it can be sent" emits an event that every client built on
# the same model takes for a broken stream, and the depth is chosen by whatever a model or a job prints. A depth limit
# of one's own, below 200 with the envelope, has to stand in front of the model.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q pydantic==2.14.3 pydantic-core==2.50.4
"$place/venv/bin/python" - <<'PYTHON'
import json

from pydantic import BaseModel, JsonValue, ValidationError


class Event(BaseModel):
    seq: int
    message: JsonValue


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def tries(levels):
    text = json.dumps({"seq": 1, "message": nested(levels)})
    assert json.loads(text)["seq"] == 1
    try:
        event = Event(seq=1, message=nested(levels))
    except ValidationError as error:
        return "not accepted: " + error.errors()[0]["type"]
    written = event.model_dump_json()
    assert json.loads(written) == json.loads(text)
    try:
        Event.model_validate_json(written)
    except ValidationError as error:
        return "written, not read back: " + error.errors()[0]["type"]
    return "written and read back"


seen = {levels: tries(levels) for levels in (100, 190, 210, 240, 300)}
for levels, what in seen.items():
    print(levels, what)
assert seen[100] == seen[190] == "written and read back"
assert seen[210].startswith("written, not read back")
assert seen[240].startswith("written, not read back")
assert seen[300].startswith("not accepted")
PYTHON
