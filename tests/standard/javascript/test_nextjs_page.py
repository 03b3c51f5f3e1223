"""The code of the documentation's page about Next.js compiles, and does against the endpoint what the page says."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.standard.javascript.conftest import HERE, NODE, SCRIPT_S
from tests.standard.javascript.test_contract_types import TYPES, _npx
from tests.support.docs import pages
from tests.support.docs.made import DOCS
from workbench import Workbench

pytestmark = NODE
# What stands in for an application's own sign-in.
SESSION = "export const userOf = async (request: Request): Promise<string | null> => request.headers.get('x-user');\n"
OPTIONS = ("--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "commonjs")
FILES = ("lib/follow.ts", "app/api/generate/route.ts", "app/api/generate/[runId]/route.ts")


@pytest.fixture(scope="module")
def application(scripts: Path) -> Path:
    """The page's files where it says that they are."""
    root = scripts / "nextjs"
    files = {block.tag: block.text for block in pages.blocks(DOCS / "nextjs.md", "ts")}
    for name, text in {**files, "lib/session.ts": SESSION}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(TYPES, root)
    return root


def test_the_code_of_the_page_compiles_and_does_what_the_page_says(application: Path, wb: Workbench) -> None:
    (application / "package.json").write_text('{"type": "commonjs"}')
    _npx(application, "tsc", "--outDir", "out", *OPTIONS, "--moduleResolution", "node10", *FILES)
    shutil.copy(HERE / "nextjs_page.cjs", application)
    called = {"WORKBENCH_URL": wb.endpoint.url, "WORKBENCH_SECRET": wb.endpoint.secret.get_secret_value()}
    done = subprocess.run(
        ["node", "nextjs_page.cjs"],
        cwd=application,
        env={**os.environ, **called},
        capture_output=True,
        text=True,
        timeout=SCRIPT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    numbers = said.pop("seqs")
    assert numbers == list(range(1, len(numbers) + 1))
    assert said == {
        "end": "done",
        "text": "".join(f"line {number}\n" for number in range(5)),
        "resumed": True,
        "nothing_more": 204,
        "of_another_user": 404,
        "headers": ["text/event-stream; charset=utf-8", "no-cache, no-transform", "no"],
        "cancelled": "cancelled",
        "refused": [400, "invalid_request"],
        "nobody": 401,
    }
