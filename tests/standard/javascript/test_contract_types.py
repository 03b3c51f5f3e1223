"""The TypeScript types of the contract are those of its models, and find the mistakes of an application."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import modal_app.contract
from modal_app.contract.openapi import openapi
from tests.standard.javascript.conftest import HERE, NODE
from workbench.typescript import application

pytestmark = NODE
TYPES = Path(modal_app.contract.__file__).with_name("generate.d.ts")
OPTIONS = ("--default-non-nullable=false", "--root-types", "--root-types-no-schema-prefix")
AS_NEXT_DOES = ("--strict", "--module", "esnext", "--moduleResolution", "bundler")
AGAIN = f"workbench contract openapi > openapi.json; npx openapi-typescript openapi.json {' '.join(OPTIONS)} -o {{}}"


def _npx(directory: Path, *command: str) -> None:
    done = subprocess.run(
        ["npx", "--no-install", *command], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_are_those_of_the_models(scripts: Path) -> None:
    (scripts / "openapi.json").write_text(json.dumps(openapi()))
    _npx(scripts, "openapi-typescript", "openapi.json", *OPTIONS, "-o", "made.d.ts")
    assert (scripts / "made.d.ts").read_text() == TYPES.read_text(), AGAIN.format(TYPES.name)


def test_a_server_compiles_against_them(scripts: Path) -> None:
    """With lines that must not compile, so that types which allow everything are found out."""
    shutil.copy(TYPES, scripts / "generate.d.ts")
    shutil.copy(Path(__file__).with_name("consumer.ts"), scripts)
    _npx(scripts, "tsc", "--noEmit", "--skipDefaultLibCheck", *AS_NEXT_DOES, "consumer.ts")


def test_no_type_has_a_name_that_a_browser_gives_another(scripts: Path) -> None:
    """An `Event` or `Request` whose import was forgotten would compile, and mean the browser's."""
    dom = (scripts / "node_modules/typescript/lib/lib.dom.d.ts").read_text()
    theirs = set(re.findall(r"^(?:interface|type|declare var|declare class) (\w+)", dom, re.MULTILINE))
    ours = set(re.findall(r"^export type (\w+)", TYPES.read_text(), re.MULTILINE))
    assert {"Event", "ErrorEvent", "Request", "Response"} <= theirs
    assert len(ours) >= 60
    assert ours & theirs == set()


def test_the_client_compiles_as_strictly_as_an_application_may_ask(scripts: Path) -> None:
    """Also with the options that a careful team adds; and lines that must not compile are found out.

    What is described of the AI SDK is held against its own types.
    """
    root = scripts / "application"
    root.mkdir()
    (root / "package.json").write_text("{}")
    application.add(root)
    shutil.copytree(application.home_of_client(root), root / "workbench")
    written = ("client_types.ts", "ai_sdk_types.ts")
    for name in written:
        shutil.copy(HERE / name, root)
    careful = ("--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--noImplicitOverride")
    careful += ("--verbatimModuleSyntax", "--isolatedModules", "--noUnusedLocals", "--noUnusedParameters")
    libraries = ("--target", "es2022", "--lib", "es2022,dom,dom.iterable")
    _npx(root, "tsc", "--noEmit", "--skipLibCheck", *AS_NEXT_DOES, *careful, *libraries, *written)
