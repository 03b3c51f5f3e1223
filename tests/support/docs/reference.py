"""Writes the reference pages from the code: the public names of `workbench`, its commands, the contract's tables.

Signatures and fields are the source's own lines, so that every Python that is supported gives the same page; a
command's help is what `--help` says, at a fixed width and without colours.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel

import workbench
from modal_app import endpoint_settings
from modal_app.contract import caps, events
from modal_app.contract.errors import ERRORS, ErrorCode
from tests.support.docs import AGAIN
from workbench.cli import app

WIDTH = 100  # of a command's help
# What public names give, and what has no name of its own in `workbench`.
GIVEN = (
    ("workbench.cloud_control.controls", "Faults"),
    ("workbench.cloud_control.controls", "Clock"),
    ("workbench.deployment.model_answers", "Model"),
    ("workbench.deployment.model_answers", "Answers"),
    ("workbench.deployment.model_answers", "Answered"),
    ("workbench.deployment.deployments", "Deployments"),
    ("workbench.runs.client", "EventStream"),
    ("modal_app.contract.proof", "Check"),
    ("modal_app.contract.proof", "Bundle"),
)
IN_NOTEBOOKS = ("open", "load_ipython_extension")  # not of `__all__`: a star import must not hide the builtin
_OURS = ("workbench", "modal_app")
_STANDS_AT: dict[Any, str] = {events.Phase: "phases", ErrorCode: "codes"}
_MADE = f"<!-- Written by `{AGAIN}` from the code. Change the docstring or the help there, then run it. -->"


def api() -> str:
    """The page of every public name."""
    names = [*workbench.__all__, *IN_NOTEBOOKS]
    public = [_named(name, getattr(workbench, name)) for name in names]
    given = [_named(name, getattr(import_module(home), name)) for home, name in GIVEN]
    listed = [f"- [`{name}`](#{anchor(name)}): {_first(inspect.getdoc(getattr(workbench, name)))}" for name in names]
    return _page(
        "Reference: the names of `workbench`",
        "`import workbench` gives these names and no others. They are imported when they are first used.",
        *listed,
        "",
        *public,
        "# What these names give",
        "",
        "Objects of these classes come from the names above; nobody makes them by hand.",
        "",
        *given,
    )


def commands() -> str:
    """The page of every command."""
    tree = list(_commands(typer.main.get_command(app), None, "workbench"))
    listed = [f"- [`{path}`](#{anchor(path)}): {_first(command.help)}" for path, command, _ in tree]
    shown = [
        text
        for path, _, context in tree
        for text in (f"## {path}", "", f"```text\n{_plain(context.get_help())}\n```", "")
    ]
    return _page(
        "Reference: the commands",
        "Every command as its `--help` tells it. `--json` prints for machines; progress goes to stderr, results to "
        "stdout.",
        *listed,
        "",
        *shown,
    )


def contract() -> str:
    """The page of the contract's tables: events, codes, limits, settings."""
    return _page(
        "Reference: events, codes, limits and settings",
        "What `/generate` says and what bounds it. `workbench contract openapi` has the same for machines, and every "
        "field of every request.",
        "",
        "## Events",
        "",
        "Every event has `type`, `run_id`, `seq`, `at_ms` and `elapsed_ms`. "
        + _flat(inspect.getdoc(events._Event) or "").removeprefix("What every event has. "),
        "",
        *_event_tables(),
        "## Codes",
        "",
        'A refusal is `{"error", "code", "recoverable"}`, with `run_id` when it is about a run. A run that fails '
        "ends with the event `error` and the same codes. The status is that of an answer without a stream.",
        "",
        "| code | status | recoverable | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{code}` | {row.status} | {'yes' if row.recoverable else 'no'} | {row.meaning} |"
            for code, row in ERRORS.items()
        ),
        "",
        "## Phases",
        "",
        "The event `status` tells one of: " + ", ".join(f"`{phase}`" for phase in events.Phase) + ".",
        "",
        "## Limits",
        "",
        _flat(inspect.getdoc(caps) or ""),
        "",
        "| limit | value | why |",
        "|---|---|---|",
        *(f"| `{name}` | {value} | {why} |" for name, value, why in _caps()),
        "",
        "## Settings of the endpoint",
        "",
        "Set them where `workbench deploy` runs; an endpoint with a bad one does not start. The secrets are made and "
        "stored by `workbench deploy`. " + _flat(inspect.getdoc(endpoint_settings.Timeouts) or ""),
        "",
        "| variable | default | what it is |",
        "|---|---|---|",
        *_settings(),
    )


PAGES: dict[str, Callable[[], str]] = {
    "reference-api.md": api,
    "reference-cli.md": commands,
    "reference-contract.md": contract,
}


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _page(title: str, about: str, *lines: str) -> str:
    text = "\n".join([_MADE, "", f"# {title}", "", about, "", *lines])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _first(text: str | None) -> str:
    """The first sentence of a docstring or a help, without its example."""
    sentence = re.split(r"(?<=[.!?])(?<!e\.g\.)\s", _flat(text or ""), maxsplit=1)[0]
    return re.sub(r", e\.g\. .*", ".", sentence)


# --- names -------------------------------------------------------------------------------------------------------


def _named(name: str, thing: Any) -> str:
    source = _Source.of(thing)
    lines = [f"## `{name}`", ""]
    if not inspect.isclass(thing):
        return "\n".join([*lines, _block(source.signature(source.node)), "", *_prose(thing.__doc__), ""])
    methods = {method.name: (one, method) for one in map(_Source.of, _bases(thing)) for method in one.methods()}
    lines += [_class(thing, source, methods), "", *_prose(_docstring(source.node))]
    if "__init__" in methods:
        _, made = methods.pop("__init__")
        lines += _prose(_docstring(made))
    for method, (one, node) in methods.items():
        lines += [f"### `{thing.__name__}.{method}`", "", _block(one.signature(node)), "", *_prose(_docstring(node))]
    return "\n".join([*lines, ""])


def _class(thing: type, source: "_Source", methods: Mapping[str, tuple["_Source", Any]]) -> str:
    """A class with its fields and how it is made, as they stand in the source."""
    bases = [text for text in map(ast.unparse, source.node.bases) if not text.startswith(("_", "Generic"))]
    head = [*(f"@{ast.unparse(one)}" for one in source.node.decorator_list)]
    head.append(f"class {thing.__name__}{'(' + ', '.join(bases) + ')' if bases else ''}:")
    body = [line for base in _bases(thing) for line in _Source.of(base).fields()]
    if "__init__" in methods:
        one, node = methods["__init__"]
        body += [*([""] if body else []), textwrap.indent(one.signature(node), "    ")]
    if not body:
        head[-1] += " ..."
    return _block("\n".join([*head, *body]))


def _block(code: str) -> str:
    return f"```python\n{code}\n```"


def _bases(thing: type) -> list[type]:
    """A class after the classes of ours that it is made from."""
    return [base for base in reversed(thing.__mro__) if base.__module__.startswith(_OURS)]


@cache
def _parsed(path: str) -> tuple[list[str], ast.Module]:
    text = Path(path).read_text()
    return text.splitlines(), ast.parse(text)


class _Source:
    """Where a class or function stands in its file."""

    def __init__(self, lines: list[str], node: Any) -> None:
        self.lines = lines
        self.node = node

    @classmethod
    def of(cls, thing: Any) -> "_Source":
        lines, tree = _parsed(inspect.getfile(inspect.unwrap(thing)))
        found = next(node for node in tree.body if getattr(node, "name", "") == thing.__name__)
        return cls(lines, found)

    def methods(self) -> Iterator[Any]:
        """What is public of it, and how it is made unless that follows from its fields."""
        for node in self.node.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            overload = any(ast.unparse(one) == "overload" for one in node.decorator_list)
            if not overload and (node.name == "__init__" or not node.name.startswith("_")):
                yield node

    def fields(self) -> Iterator[str]:
        """The lines of its public fields, or an enumeration's members, as they stand."""
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign):
                name = getattr(node.target, "id", "_")
            elif isinstance(node, ast.Assign):
                name = getattr(node.targets[0], "id", "_")
            else:
                continue
            if not name.startswith("_") and name != "model_config":
                yield from self.lines[node.lineno - 1 : node.end_lineno]

    def signature(self, node: Any) -> str:
        """A function from its decorators to its colon, as it stands."""
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        lines = self.lines[first - 1 : node.body[0].lineno - 1]
        return textwrap.dedent("\n".join(re.sub(r"\s+# .*$", "", line) for line in lines)).rstrip().removesuffix(":")


def _docstring(node: Any) -> str | None:
    return ast.get_docstring(node)


def _prose(text: str | None) -> list[str]:
    """A docstring as Markdown: its examples become code, what only looks like markup does not."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        if paragraph.startswith(">>>"):
            lines += ["```pycon", paragraph, "```", ""]
        elif paragraph:
            lines += [_escaped(paragraph), ""]
    return lines


def _escaped(text: str) -> str:
    code = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*])", r"\\\1", part) for part in code)


# --- commands ----------------------------------------------------------------------------------------------------


def _commands(command: Any, parent: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Each command below one, with its path and a context of fixed width."""
    command.rich_markup_mode = None  # plain text: what rich draws depends on the terminal
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH, color=False
    )
    yield context.command_path, command, context
    for sub in sorted(getattr(command, "commands", {})):
        yield from _commands(command.commands[sub], context, sub)


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())


# --- the contract ------------------------------------------------------------------------------------------------


def _event_tables() -> Iterator[str]:
    """A table for each event, and for the parts that events have."""
    common = set(events._Event.model_fields)
    kinds = (events.StatusEvent, events.StreamEvent, events.DoneEvent, events.ErrorEvent)
    parts = (events.Commit, events.SandboxFacts, events.Timings, events.Usage, events.ModelRetry)
    for model in (*kinds, *parts):
        name = model.model_fields["type"].default if model in kinds else model.__name__
        yield from (f"### `{name}`", "", *_prose(_docstring(_Source.of(model).node)))
        yield from ("| field | type | what it is |", "|---|---|---|")
        for field, info in model.model_fields.items():
            if model not in kinds or field not in common:
                always = "" if info.is_required() else ", may be absent"
                yield f"| `{field}` | {_type(info.annotation)}{always} | {info.description or ''} |"
        yield ""


def _type(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and not get_args(annotation):
        where = _STANDS_AT.get(annotation, anchor(annotation.__name__) if issubclass(annotation, BaseModel) else "")
        return f"[`{annotation.__name__}`](#{where})" if where else f"`{annotation.__name__}`"
    kinds = [one for one in get_args(annotation) if one is not type(None)]
    if str(annotation).startswith("typing.Literal"):
        return ", ".join(f"`{kind}`" for kind in kinds)
    if "Union" in type(annotation).__name__ and kinds:
        return " or ".join(map(_type, kinds))
    return "JSON" if "Json" in str(annotation) else "object"


def _caps() -> Iterator[tuple[str, str, str]]:
    """Each cap: its name, its value, and the reason that stands behind it."""
    lines, tree = _parsed(inspect.getfile(caps))
    for node in tree.body:
        if isinstance(node, ast.Assign):
            name = getattr(node.targets[0], "id", "")
            yield name, _number(getattr(caps, name)), lines[node.lineno - 1].partition("  # ")[2]


def _number(value: Any) -> str:
    for size, unit in ((1024**2, "MiB"), (1024, "KiB")):
        if isinstance(value, int) and value >= size and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,}"


def _settings() -> Iterator[str]:
    own = endpoint_settings
    for model in (own.Timeouts, own.Limits, own.Scale, own.Settings):
        source = _Source.of(model)
        comments = dict(_comments(source))
        for field, info in model.model_fields.items():
            if field == "timeouts" or field not in model.__annotations__:
                continue
            name = f"{model.model_config['env_prefix']}{field}".upper()
            if "SecretStr" in str(info.annotation):
                yield f"| `{name}` | | {comments.get(field, '')} |"
            else:
                number = f"{info.default:,}" if field.endswith("_mb") else _number(info.default)
                yield f"| `{name}` | {number} | {comments.get(field, '')} |"


def _comments(source: _Source) -> Iterator[tuple[str, str]]:
    """The comment of each field, on its last line or within it."""
    for node in source.node.body:
        if isinstance(node, ast.AnnAssign):
            lines = source.lines[node.lineno - 1 : node.end_lineno]
            found = [line.partition("  # ")[2] for line in lines if "  # " in line]
            yield getattr(node.target, "id", ""), " ".join(found)


def all_of(pages: Iterable[str] = PAGES) -> dict[str, str]:
    """The pages by their file names."""
    return {name: PAGES[name]() for name in pages}
