"""`workbench contract`: prints the endpoint's contract in forms for other languages and tools."""

import json
import sys
from importlib.resources import files
from typing import Annotated, Literal

import typer

Form = Literal["openapi", "json-schema", "typescript", "errors"]


def contract(form: Annotated[Form, typer.Argument(help="Which form to print.")]) -> None:
    """Print the contract of /generate: as OpenAPI 3.1, JSON Schema, TypeScript types, or its table of error codes.

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
