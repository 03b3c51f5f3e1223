"""`workbench contract`: the endpoint's contract for other languages and tools."""

import json
import sys
from importlib.resources import files
from typing import Annotated, Literal

import typer

Form = Literal["openapi", "json-schema", "typescript", "errors"]


def contract(form: Annotated[Form, typer.Argument(help="What to print.")]) -> None:
    """Print what /generate accepts and answers: OpenAPI 3.1, JSON Schema, types for a TypeScript server, or its codes.

    `workbench contract typescript > generate.d.ts` gives a Next.js server the types of requests, events and refusals;
    `workbench contract errors > errors.json` gives it the table of codes, of the type `ErrorTable`.
    """
    from modal_app.contract.openapi import errors, json_schema, openapi

    if form == "typescript":
        text = files("modal_app.contract").joinpath("generate.d.ts").read_text(encoding="utf-8")
    else:
        document = {"openapi": openapi, "json-schema": json_schema, "errors": errors}[form]()
        text = json.dumps(document, indent=2) + "\n"
    sys.stdout.write(text)
