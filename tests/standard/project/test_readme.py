"""What the README and the pages below `.github/docs` tell people to do, works: their commands and their code run.

A block says by its tag how it is run: `sh run` on the tests' cloud, `sh fault` as rules with a run that meets them,
`python FILE` is the file that the page's commands name. `sh pytest` is run by `workbench/test_pytest_plugin.py`. That
other commands exist, `quick/project/test_docs.py` holds.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import FAST, live_sandboxes, stop_apps
from tests.support import warm
from tests.support.commands import PLAIN, cli
from tests.support.docs import nextjs, pages
from tests.support.docs.made import DOCS
from tests.support.docs.pages import PAGES, README
from tests.support.paths import ROOT
from workbench import Workbench
from workbench.deployment.app_secrets import SECRET_VARIABLE
from workbench.local_cloud.process.state_directory import Running

WITH_PYTHON = [page for page in PAGES if pages.blocks(page, "python", "")]
WITH_COMMANDS = [page for page in PAGES if pages.blocks(page, "sh", "run")]
# What a page's Python has come to, where it does not assert that itself.
AFTER = {
    "README.md": "assert (end.type, wb.volume(project).read_text('note.txt')) == ('done', 'hello')\nwb.close()\n",
    ".github/docs/ci.md": "test_the_report_is_written()\n",
}
PAGES_APP = "docs-pages"
COMMAND_S = 110


def test_both_commands_stand_in_the_readme() -> None:
    shell = "\n".join(block.text for block in pages.blocks(README, "sh"))
    for command in ("demo", "test"):
        assert f"pip install uv && uv run workbench {command}" in shell
    assert "uv run workbench test" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_has_two_screens() -> None:
    assert len(README.read_text().splitlines()) <= 100


@pytest.mark.parametrize("page", WITH_PYTHON, ids=pages.name)
def test_the_python_of_a_page_runs(page: Path, wb: Workbench) -> None:
    """In a process of its own, as it stands, against the app under test."""
    code = "".join(block.text for block in pages.blocks(page, "python", "")) + AFTER.get(pages.name(page), "")
    code = code.replace("\nwb.volume", "\n_ = wb.volume").replace(".connect()", f".connect(app_name={wb.app_name!r})")
    done = warm.run("-c", code, env={**os.environ, **FAST})  # what it deploys is still the app under test
    assert done.returncode == 0, done.stderr
    assert live_sandboxes() == []


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=pages.name)
def test_the_commands_of_a_page_work(page: Path, cloud: Running, tmp_path: Path) -> None:
    """One after the other, beside the files that the page has, on a project and an app of the pages' own."""
    for block in pages.blocks(page, "python"):
        if block.tag:
            (tmp_path / block.tag).write_text(block.text)
    ids = {f"WORKBENCH_{name}_ID": "5b3c9a0e-60f5-4d49-9c6e-3f9c1b7a2d10" for name in ("USER", "PROJECT")}
    env = {**os.environ, **PLAIN, **ids, "WORKBENCH_APP_NAME": PAGES_APP, "COLUMNS": "200"}
    try:
        for block in pages.blocks(page, "sh", "run"):
            for words in pages.commands_of(block.text):
                done = warm.run("-m", *words, env=env, cwd=tmp_path, timeout_s=COMMAND_S)
                assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
    finally:
        stop_apps(PAGES_APP, *(Path(block.tag).stem for block in pages.blocks(page, "python") if block.tag))


def test_the_curl_of_the_readme_streams(wb: Workbench) -> None:
    (curl,) = (block.text for block in pages.blocks(README, "sh") if block.text.startswith("curl"))
    env = {"URL": wb.endpoint.url, "SECRET": wb.endpoint.secret.get_secret_value(), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", curl], env=env, capture_output=True, text=True, timeout=110, check=False)
    assert "event: done" in done.stdout, done.stdout + done.stderr
    assert SECRET_VARIABLE not in done.stdout


CODE = "import time; open('note', 'w').write(str(time.time())); print('out')"  # another file each time


def test_the_faults_of_the_pages_happen_and_are_told(wb: Workbench) -> None:
    """Each rule as it stands, one after the other, and a run that meets it."""
    lines = [line for page in PAGES for block in pages.blocks(page, "sh", "fault") for line in block.text.splitlines()]
    assert len(lines) == 2
    job = ["run", "python", "--app-name", wb.app_name, "--json", "-c", CODE]
    for line in lines:
        command, _, told = line.partition("#")
        assert cli(*shlex.split(command)[3:]).returncode == 0
        try:
            end = json.loads(cli(*job).stdout.splitlines()[-1])
            [rule] = json.loads(cli("cloud", "fault", "list", "--json").stdout)["rules"]
        finally:
            cli("cloud", "fault", "clear")
        assert rule["injected"] > 0, line
        expected = re.findall(r"ends in (\w+)", told)
        assert ([end["code"]] if end["type"] == "error" else []) == expected, line
    assert json.loads(cli(*job).stdout.splitlines()[-1])["type"] == "done"


def test_every_block_is_held_by_a_test() -> None:
    """A tag or a language that nobody runs would be prose that looks like code."""
    known = {"sh": ("", "run", "fault", "pytest"), "yaml": ("",), "text": ("",)}
    typescript = nextjs.code().keys()  # compiled and built with the reference application
    for page in PAGES:
        for block in pages.blocks(page):
            if block.language == "python":
                run = "".join(one.text for one in pages.blocks(page, "sh") if one.tag)
                assert block.tag in ("", "claude") or block.tag in run  # "claude": in `test_model_modes.py`
            elif block.language in ("ts", "tsx"):
                assert (page, block.tag) in {(DOCS / "nextjs.md", tag) for tag in typescript}
            else:
                assert block.tag in known[block.language], (page.name, block)
