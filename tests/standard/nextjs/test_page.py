"""The code of the documentation's page about Next.js compiles in an application, and its tables leave nothing out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from modal_app.contract.errors import ErrorCode
from tests.support.docs import pages
from tests.support.docs.made import DOCS
from tests.support.nextjs import NODE, SOURCE, Application
from workbench.typescript import application as client

pytestmark = NODE
PAGE = DOCS / "nextjs.md"
# What stands in for an application's own sign-in.
SESSION = """
const header = (request: Request, name: string): string | null => request.headers.get(name);
export const userOf = async (request: Request): Promise<string | null> => header(request, "x-user");
export const projectOf = async (user: string, request: Request) => header(request, "x-project") ?? user;
"""


@pytest.mark.timeout(300)
def test_the_code_of_the_page_compiles_in_an_application(application: Application, tmp_path: Path) -> None:
    written = {block.tag: block.text for language in ("ts", "tsx") for block in pages.blocks(PAGE, language)}
    assert {"lib/runs.ts", "app/page.tsx", "script.ts", "app/api/runs/[runId]/route.ts"} <= written.keys()
    (tmp_path / "node_modules").symlink_to(application.directory / "node_modules")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(SOURCE / name, tmp_path)
    client.add(tmp_path)
    for name, text in {**written, "lib/session.ts": SESSION}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["node", "node_modules/typescript/bin/tsc", "--noEmit", "--incremental", "false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_code_has_its_row_and_every_file_too() -> None:
    text = PAGE.read_text()
    codes = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(codes) == sorted(str(code) for code in ErrorCode)
    files = client.shipped().keys()
    assert [name for name in files if f"`{name}`" not in text] == []
