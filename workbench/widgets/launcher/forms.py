"""Forms for every request that an endpoint accepts, derived from the models of the contract.

Fields, types, choices, limits and help texts are those of the models, and pydantic tells what is wrong with a value,
field by field.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from modal_app.contract.fields import ProjectRequest, Revision, Uuid
from modal_app.contract.paths import WorkspacePath
from modal_app.contract.requests import REDACTED, Request

Kind = Literal["line", "text", "lines", "number", "flag", "choice", "json", "items"]
Values = Mapping[str, Any]

_LINES = tuple(get_args(kind)[1] for kind in (Uuid, Revision, WorkspacePath))  # types of texts that have a single line
_TOLD = (
    "user_id",
    "project_id",
    "action",
    "op",
)  # not fields of a form: the project is filled in beside it, and action and op choose it
_LIMITS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("maxItems", "at most"),
)


@dataclass(frozen=True)
class Field:
    """One field of a form. `items` are the fields of a list's items; `common` marks fields that all requests have."""

    name: str
    kind: Kind
    required: bool
    hint: str
    common: bool = False
    choices: tuple[str, ...] = ()
    default: str | bool = ""
    items: tuple["Field", ...] = ()


@dataclass(frozen=True)
class Form:
    """The form of one kind of request; `op` is empty for actions without operations."""

    action: str
    op: str
    help: str
    fields: tuple[Field, ...]
    model: type[Request]

    def drawn(self) -> dict[str, Any]:
        """The form as JSON, for the page."""
        fields = [asdict(field) for field in self.fields]
        return {"action": self.action, "op": self.op, "help": self.help, "fields": fields}


@dataclass(frozen=True)
class Checked:
    """The result of checking a form: the request, or the errors by field name; "" is the request as a whole."""

    request: Request | None
    errors: dict[str, str]


def forms() -> tuple[Form, ...]:
    """The forms of all requests, in the order of the contract."""
    return tuple(map(_form, get_args(Request)))


def check(form: Form, user_id: str, project_id: str, values: Values) -> Checked:
    """Parse what was filled in, exactly as an endpoint would."""
    body: dict[str, Any] = {"user_id": user_id, "project_id": project_id, "action": form.action}
    if form.op:
        body["op"] = form.op
    errors: dict[str, str] = {}
    for field in form.fields:
        try:
            body |= _filled(field, values.get(field.name))
        except ValueError:
            errors[field.name] = "is not JSON"
    try:
        request = form.model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(one["loc"][0]) if one["loc"] else ""
            inside = ".".join(str(part + 1) if isinstance(part, int) else part for part in one["loc"][1:])
            message = "is required" if one["type"] == "missing" else one["msg"].removeprefix("Value error, ")
            errors.setdefault(name, f"{inside}: {message}" if inside else message)
        return Checked(None, errors)
    return Checked(None, errors) if errors else Checked(request, {})


def values_of(form: Form, request: Request) -> dict[str, Any]:
    """What is filled in where this request is made: the reverse of `check`, but for what was not kept of it."""
    given = request.model_dump(mode="json", exclude_defaults=True)
    return {field.name: _shown(field, given[field.name]) for field in form.fields if field.name in given}


def _shown(field: Field, value: Any) -> Any:
    match field.kind:
        case "items":
            return [{one.name: _shown(one, row[one.name]) for one in field.items if one.name in row} for row in value]
        case "lines":
            return "\n".join(map(str, value))
        case "json":
            return json.dumps(value, indent=2, ensure_ascii=False)
        case "flag":
            return bool(value)
        case _:
            return "" if value == REDACTED else str(value)


def _filled(field: Field, value: Any) -> dict[str, Any]:
    """A field's part of the body: nothing for a field left empty. Raises ValueError for invalid JSON."""
    if field.kind == "items":
        rows = value if isinstance(value, list) else []
        return {field.name: [_row(field, row) for row in rows if isinstance(row, dict)]}
    if value in (None, "") or value == field.default:
        return {}
    match field.kind:
        case "lines":
            return {field.name: [line for line in str(value).split("\n") if line]}
        case "number":
            return {field.name: _number(str(value))}
        case "json":
            return {field.name: json.loads(str(value))}
        case _:
            return {field.name: value}


def _row(field: Field, row: dict[str, Any]) -> dict[str, Any]:
    """One item of a list as JSON. A required field that was left empty is ""; optional ones are then left out."""
    filled = {one.name: row.get(one.name, "") for one in field.items if one.required}
    for one in field.items:
        filled |= _filled(one, row.get(one.name))
    return filled


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text unchanged, so that the contract's own parser tells what is wrong."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _form(model: type[Request]) -> Form:
    fields = model.model_fields
    schema = model.model_json_schema()["properties"]
    drawn = [
        replace(_field(name, info, schema[name]), common=name in ProjectRequest.model_fields)
        for name, info in fields.items()
        if name not in _TOLD
    ]
    return Form(
        action=str(fields["action"].default),
        op=str(fields["op"].default) if "op" in fields else "",
        help=" ".join((model.__doc__ or "").split()),
        fields=tuple(sorted(drawn, key=lambda field: (not field.required, field.common))),
        model=model,
    )


def _field(name: str, info: FieldInfo, schema: Mapping[str, Any]) -> Field:
    plain = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    kind = _kind(info, plain)
    items = tuple(_items(info)) if kind == "items" else ()
    default: str | bool = bool(info.default) if kind == "flag" else ""
    if kind == "choice" and not info.is_required():
        default = str(info.default)
    return Field(
        name=name,
        kind=kind,
        required=info.is_required(),
        hint=_hint(kind, info, plain),
        choices=tuple(map(str, plain.get("enum", ()))),
        default=default,
        items=items,
    )


def _kind(info: FieldInfo, schema: Mapping[str, Any]) -> Kind:
    match schema:
        case {"type": "array", "items": {"$ref": _}}:
            return "items"
        case {"type": "array"}:
            return "lines"
        case {"type": "boolean"}:
            return "flag"
        case {"type": "integer" | "number"}:
            return "number"
        case {"enum": _}:
            return "choice"
        case {"type": "string"}:
            return "line" if any(one in _LINES for one in _metadata(info)) else "text"
        case _:
            return "json"


def _metadata(info: FieldInfo) -> Iterator[Any]:
    yield from info.metadata
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            yield from part.__metadata__


def _items(info: FieldInfo) -> Iterator[Field]:
    (model,) = (one for one in get_args(info.annotation) if isinstance(one, type) and issubclass(one, BaseModel))
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        yield _field(name, field, schema[name])


def _hint(kind: Kind, info: FieldInfo, schema: Mapping[str, Any]) -> str:
    """A few words that tell which values a field takes."""
    words = [f"{word} {schema[limit]:g}" for limit, word in _LIMITS if limit in schema]
    if "minimum" in schema and "maximum" in schema:
        words = [f"{schema['minimum']:g} to {schema['maximum']:g}"]
    if kind == "lines":
        words.insert(0, "one a line")
    if kind == "json":
        words.insert(0, "JSON")
    if kind in ("number", "line") and not info.is_required() and info.default is not None:
        words.append(f"{info.default} when empty")
    return ", ".join(words)
