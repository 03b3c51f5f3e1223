"""The contract as one OpenAPI 3.1 document, made of the models that parse requests and write events.

What JSON Schema cannot say stays with the models: a body that follows the document may still be refused, one that does
not always is. The form is that of the OpenAPI Specification 3.1.1.
"""

import json
from collections import defaultdict
from typing import Any

from pydantic import JsonValue, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from modal_app.contract.errors import ERRORS, ErrorCode
from modal_app.contract.events import EVENT
from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from modal_app.contract.limits import MAX_BODY_BYTES, MAX_KEY_CHARS
from modal_app.contract.requests import REQUEST

_REF = "#/components/schemas/"
_EVENTS = (
    "One of these is the JSON of the `data` line of each event; `id` is its `seq`, `event` its `type`. Lines that "
    "begin with a colon are heartbeats. The last event is `done` or `error`."
)


def json_schema() -> dict[str, Any]:
    """Bodies and events as JSON Schema (draft 2020-12), each under its name in `$defs`."""
    definitions = json.loads(json.dumps(_schemas()).replace(_REF, "#/$defs/"))
    either = [{"$ref": "#/$defs/GenerateRequest"}, {"$ref": "#/$defs/Event"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": either, "$defs": definitions}


def openapi() -> dict[str, Any]:
    """The document, as JSON."""
    statuses = _refusals()
    run = {"200": _stream(), "204": _NOTHING_MORE, **statuses}
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
                    "summary": "Start a run and stream its events; repeated with the same key, join it.",
                    "parameters": [_header(KEY_HEADER, maxLength=MAX_KEY_CHARS, minLength=1), _last_event_id()],
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
                        **statuses,
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
_NOTHING_MORE = {"description": "Last-Event-ID is the last event's: the run has ended, and there is nothing more"}


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a title would only repeat the field's name."""
        return False


def _schemas() -> dict[str, Any]:
    inputs: list[Any] = [("request", "validation", REQUEST), ("event", "validation", EVENT)]
    schemas, shared = TypeAdapter.json_schemas(inputs, ref_template=f"{_REF}{{model}}", schema_generator=_Untitled)
    definitions = shared["$defs"]
    for name, schema in definitions.items():
        fixed = [field for field, facts in schema.get("properties", {}).items() if "const" in facts]
        if name != "ClaudeRequest":  # whose `action` a prompt stands for
            schema["required"] = [*fixed, *(field for field in schema.get("required", ()) if field not in fixed)]
        if not schema.get("required", True):
            del schema["required"]
    codes: dict[str, JsonValue] = {"type": "string", "enum": [str(code) for code in ErrorCode]}
    outcome: dict[str, JsonValue] = {"type": "string", "enum": ["done", *(str(code) for code in ErrorCode)]}
    return {
        **definitions,
        "GenerateRequest": schemas["request", "validation"],
        "Event": schemas["event", "validation"],
        "Refusal": {
            **_object(error=_STRING, code=codes),
            "description": "Why there is no stream. For an ended run, with its event's own fields beside these two.",
        },
        "Cancelled": _object(run_id=_STRING, cancelled={"type": "boolean"}, outcome=outcome),
    }


def _refusals() -> dict[str, Any]:
    codes = defaultdict(list)
    for code, info in ERRORS.items():
        codes[info.status].append(f"`{code}`: {info.meaning}")
    return {
        str(status): {"description": "; ".join(lines), "content": _json(_ref("Refusal"))}
        for status, lines in sorted(codes.items())
    }


def _stream() -> dict[str, Any]:
    return {
        "description": f"The run's events. {_EVENTS} With `Accept: application/json`, its last event alone.",
        "headers": {RUN_HEADER: {"description": "the run's id", "schema": _STRING}},
        "content": {"text/event-stream": {"schema": _ref("Event")}, **_json(_ref("DoneEvent"))},
    }


def _header(name: str, **schema: JsonValue) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {**_STRING, **schema}}


def _last_event_id() -> dict[str, Any]:
    return _header("Last-Event-ID", pattern="^[0-9]{1,15}$")


def _run_id() -> dict[str, Any]:
    return {"name": "run_id", "in": "path", "required": True, "schema": {**_STRING, "format": "uuid"}}


def _user_id() -> dict[str, Any]:
    text = "A run of another user is answered with 404."
    return {"name": "user_id", "in": "query", "description": text, "schema": {**_STRING, "format": "uuid"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}


def _object(**properties: dict[str, JsonValue]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
