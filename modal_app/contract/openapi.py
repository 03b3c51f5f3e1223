"""The contract as one OpenAPI 3.1.1 document, made from the models that parse requests and write events.

The models check more than JSON Schema can express: a body that violates the document is always refused, and one that
follows it may still be.
"""

import json
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from pydantic import JsonValue, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from modal_app.contract.caps import MAX_BODY_BYTES, MAX_KEY_CHARS
from modal_app.contract.claude_messages import CLAUDE_MESSAGE
from modal_app.contract.errors import ERRORS, RECOVERABLE, ErrorCode
from modal_app.contract.events import EVENT
from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from modal_app.contract.requests import REQUEST

_REF = "#/components/schemas/"
_EVENT_KINDS = ("StatusEvent", "StreamEvent", "DoneEvent", "ErrorEvent")
_EVENT_PARTS = (*_EVENT_KINDS, "Timings", "Usage", "Commit", "SandboxFacts", "ModelRetry")
# A browser has an `Event` and an `ErrorEvent` of its own, which a forgotten import would silently mean.
_PUBLISHED = {name: f"Run{name}" for name in _EVENT_KINDS}
_EVENTS = (
    "One of these is the JSON of the `data` line of each event; `id` is its `seq`, `event` its `type`. Lines that "
    "begin with a colon are heartbeats. The last event is `done` or `error`."
)


def errors() -> dict[str, Any]:
    """The error table as JSON: from code to `status`, `recoverable` and `meaning`."""
    return {str(code): asdict(info) for code, info in ERRORS.items()}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of request bodies and events, with each model under its name in `$defs`."""
    definitions = json.loads(json.dumps(_schemas()).replace(_REF, "#/$defs/"))
    either = [{"$ref": "#/$defs/GenerateRequest"}, {"$ref": "#/$defs/RunEvent"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": either, "$defs": definitions}


def openapi() -> dict[str, Any]:
    """The OpenAPI document as JSON."""
    run = {"200": _stream(), "204": _NOTHING_MORE, **_refusals("Refusal", "FailedRun")}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "generate",
            "version": "1",
            "description": f"Runs a job in a project's sandbox. Bodies are at most {MAX_BODY_BYTES} bytes long.",
        },
        "security": [{"secret": []}],
        "paths": {
            "/generate": {
                "post": {
                    "operationId": "generate",
                    "summary": "Start a run and stream its events; repeated with the same key, join it. "
                    "With Last-Event-ID only join.",
                    "parameters": [_key(), _last_event_id()],
                    "requestBody": {"required": True, "content": _json(_ref("GenerateRequest"))},
                    "responses": run,
                }
            },
            "/generate/{run_id}": {
                "parameters": [_run_id(), _user_id()],
                "get": {
                    "operationId": "resume",
                    "summary": "Read a run from its first event, or from behind Last-Event-ID, and follow it.",
                    "parameters": [_last_event_id()],
                    "responses": run,
                },
                "delete": {
                    "operationId": "cancel",
                    "summary": "Cancel a run; answered when its sandbox is gone.",
                    "responses": {
                        "200": {"description": "the run has ended", "content": _json(_ref("Cancelled"))},
                        **_refusals("Refusal"),
                    },
                },
            },
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the endpoint answers.",
                    "security": [],
                    "responses": {"200": {"description": "it does", "content": _json(_object(status=_STRING))}},
                }
            },
        },
        "components": {
            "securitySchemes": {"secret": {"type": "apiKey", "in": "header", "name": SECRET_HEADER}},
            "schemas": _schemas(),
        },
    }


_STRING: dict[str, JsonValue] = {"type": "string"}
_BOOLEAN: dict[str, JsonValue] = {"type": "boolean", "description": RECOVERABLE}
_NOTHING_MORE = {"description": "Last-Event-ID is the last event's: the run has ended, and there is nothing more"}


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: a title would only repeat the field's name."""
        return False


def _schemas() -> dict[str, Any]:
    inputs: list[Any] = [
        ("request", "validation", REQUEST),
        ("event", "validation", EVENT),
        ("claude", "validation", CLAUDE_MESSAGE),
    ]
    schemas, shared = TypeAdapter.json_schemas(inputs, ref_template=f"{_REF}{{model}}", schema_generator=_Untitled)
    definitions = shared["$defs"]
    for name, schema in definitions.items():
        fixed = [field for field, facts in schema.get("properties", {}).items() if "const" in facts]
        if name != "ClaudeRequest":  # whose `action` a prompt stands for
            schema["required"] = [*fixed, *(field for field in schema.get("required", ()) if field not in fixed)]
        if not schema.get("required", True):
            del schema["required"]
    for name, schema in definitions.items():
        if name in _EVENT_PARTS or (name.startswith("Claude") and name != "ClaudeRequest"):
            _as_written(schema)
    definitions["StreamEvent"]["properties"]["message"]["description"] = (
        "A line of the Claude CLI. What a whole line of a known kind holds tells `ClaudeMessage`."
    )
    definitions |= _programs(definitions.pop("PythonRequest"))
    outcome: dict[str, JsonValue] = {"type": "string", "enum": ["done", *(str(code) for code in ErrorCode)]}
    published = {
        **definitions,
        "GenerateRequest": schemas["request", "validation"],
        "RunEvent": schemas["event", "validation"],
        "ClaudeMessage": schemas["claude", "validation"],
        "Refusal": _refusal(),
        "FailedRun": {
            "description": "The end of a run that failed, for who accepts JSON: its event's fields, and `error`.",
            "allOf": [_ref("RunErrorEvent"), _object(error=_STRING)],
        },
        "Cancelled": _object(run_id=_STRING, cancelled={"type": "boolean"}, outcome=outcome),
        "ErrorTable": _table(),
    }
    text = json.dumps({_PUBLISHED.get(name, name): schema for name, schema in published.items()})
    for name, ours in _PUBLISHED.items():
        text = text.replace(f'"{_REF}{name}"', f'"{_REF}{ours}"')
    return dict(json.loads(text))


def _programs(python: dict[str, Any]) -> dict[str, Any]:
    """The schema of a Python request as either of two: one with `code`, and one with the `path` of a file."""
    found: dict[str, Any] = {}
    for name, given, other in (("PythonCode", "code", "path"), ("PythonFile", "path", "code")):
        (text,) = [kind for kind in python["properties"][given]["anyOf"] if kind != {"type": "null"}]
        properties = {**python["properties"], given: text, other: {"type": "null"}}
        found[name] = {**python, "title": name, "properties": properties, "required": [*python["required"], given]}
    return {**found, "PythonRequest": {"anyOf": [_ref(name) for name in found]}}


def _as_written(schema: dict[str, Any]) -> None:
    """Describe what is written: fields that are None are left out, never null, and all others are always there."""
    written = []
    for field, facts in schema["properties"].items():
        default = facts.pop("default", ...)
        if default is not None:
            written.append(field)
            continue
        kinds = [kind for kind in facts.pop("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            facts.update(kinds[0])
        elif kinds:
            facts["anyOf"] = kinds
    if written:
        schema["required"] = written


def _refusal() -> dict[str, Any]:
    about: dict[str, JsonValue] = {**_STRING, "format": "uuid", "description": "The run that it is about."}
    refusal = _object(error=_STRING, code=_ref("ErrorCode"), recoverable=_BOOLEAN)
    refusal["properties"]["run_id"] = about
    return {**refusal, "description": "Why there is neither a stream nor the end of a run."}


def _table() -> dict[str, Any]:
    """The schema of the error table, with every value a constant, so that type generators make literals of them."""
    rows: dict[str, Any] = {
        str(code): _object(
            status={"type": "integer", "const": info.status},
            recoverable={"type": "boolean", "const": info.recoverable},
            meaning={**_STRING, "const": info.meaning},
        )
        for code, info in ERRORS.items()
    }
    return {**_object(**rows), "description": "What each code is; its values are in `workbench contract errors`."}


def _refusals(*forms: str) -> dict[str, Any]:
    codes = defaultdict(list)
    for code, info in ERRORS.items():
        codes[info.status].append(f"`{code}`: {info.meaning}")
    return {
        str(status): {"description": "; ".join(lines), "content": _json(_either(*forms))}
        for status, lines in sorted(codes.items())
    }


def _stream() -> dict[str, Any]:
    return {
        "description": (
            f"The run's events. {_EVENTS} With `Accept: application/json`, its last event alone: a `done` with this "
            "status, an `error` with the status of its code."
        ),
        "headers": {RUN_HEADER: {"description": "the run's id", "schema": _STRING}},
        "content": {"text/event-stream": {"schema": _ref("RunEvent")}, **_json(_ref("RunDoneEvent"))},
    }


def _header(name: str, **schema: JsonValue) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {**_STRING, **schema}}


def _key() -> dict[str, Any]:
    """The Idempotency-Key header, with what it means for a client that tries again."""
    text = (
        "Makes a repeated request find the run that the first one has started, also after its end; it belongs to one "
        "user and project. To run the same again, send a new key."
    )
    return {**_header(KEY_HEADER, maxLength=MAX_KEY_CHARS, minLength=1), "description": text}


def _last_event_id() -> dict[str, Any]:
    return _header("Last-Event-ID", pattern="^[0-9]{1,15}$")


def _run_id() -> dict[str, Any]:
    return {"name": "run_id", "in": "path", "required": True, "schema": {**_STRING, "format": "uuid"}}


def _user_id() -> dict[str, Any]:
    text = "A run of another user is answered with 404."
    return {"name": "user_id", "in": "query", "description": text, "schema": {**_STRING, "format": "uuid"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _either(*names: str) -> dict[str, Any]:
    return _ref(names[0]) if len(names) == 1 else {"anyOf": [_ref(name) for name in names]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}


def _object(**properties: dict[str, JsonValue]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
