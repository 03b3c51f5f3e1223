"""`workbench contract`: prints the endpoint's contract in forms for other languages and tools."""

import json
import sys
from importlib.resources import files
from typing import Annotated, Literal

import typer

Form = Literal["openapi", "json-schema", "typescript", "constants", "errors"]


def contract(form: Annotated[Form, typer.Argument(help="Which form to print.")]) -> None:
    """Print the contract of /generate: as OpenAPI 3.1, JSON Schema, TypeScript, or its table of error codes.

    `typescript` are the types of requests, events and refusals, `constants` the names of headers, the limits, deadlines
    and codes that belong to them. `workbench next add` puts both into an application.
    """
    from modal_app.contract.openapi import errors, json_schema, openapi
    from modal_app.endpoint_settings import Timeouts
    from workbench.typescript.constants import constants

    if form == "typescript":
        text = files("modal_app.contract").joinpath("generate.d.ts").read_text(encoding="utf-8")
    elif form == "constants":
        text = constants(Timeouts())
    else:
        document = {"openapi": openapi, "json-schema": json_schema, "errors": errors}[form]()
        text = json.dumps(document, indent=2) + "\n"
    sys.stdout.write(text)
