"""`workbench contract`: the endpoint's contract for other languages and tools."""

import json
import sys
from importlib.resources import files
from typing import Annotated, Literal

import typer

Form = Literal["openapi", "json-schema", "typescript"]


def contract(form: Annotated[Form, typer.Argument(help="What to print.")]) -> None:
    """Print what /generate accepts and answers: OpenAPI 3.1, JSON Schema, or types for a TypeScript server.

    `workbench contract typescript > generate.d.ts` gives a Next.js server the types of requests, events and refusals.
    """
    from modal_app.contract.openapi import json_schema, openapi

    if form == "typescript":
        text = files("modal_app.contract").joinpath("generate.d.ts").read_text(encoding="utf-8")
    else:
        text = json.dumps(openapi() if form == "openapi" else json_schema(), indent=2) + "\n"
    sys.stdout.write(text)
