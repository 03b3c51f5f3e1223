"""The TypeScript types of the contract are those of its models, and compile in a server that uses them."""

import json
import shutil
import subprocess
from pathlib import Path

import modal_app.contract
from modal_app.contract.openapi import openapi
from tests.standard.javascript.conftest import NODE

pytestmark = NODE
TYPES = Path(modal_app.contract.__file__).with_name("generate.d.ts")
OPTIONS = ("--default-non-nullable=false", "--root-types", "--root-types-no-schema-prefix")
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
    as_next_does = ("--strict", "--module", "esnext", "--moduleResolution", "bundler")
    _npx(scripts, "tsc", "--noEmit", *as_next_does, "consumer.ts")
