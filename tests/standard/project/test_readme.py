"""What the README tells people to do, works: its commands exist and its code runs."""

import json
import os
import re
import shlex
import subprocess

import pytest
from typer.testing import CliRunner

from tests.conftest import live_sandboxes
from tests.support import warm
from tests.support.commands import cli
from tests.support.paths import ROOT
from workbench import Workbench
from workbench.cli import app
from workbench.deployment.deploy import SECRET_VARIABLE

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = "\n".join(block for language, block in BLOCKS if language == "sh")
COMMANDS = sorted(
    {tuple(match.split()) for match in re.findall(r"uv run workbench ((?:[a-z]+ ?){1,2})", SHELL.replace("'", " -"))}
)


def test_both_commands_stand_in_the_readme() -> None:
    for command in ("demo", "test"):
        assert f"pip install uv && uv run workbench {command}" in SHELL
    assert "uv run workbench test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_exists(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0, done.output


def test_the_python_of_the_readme_runs(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as it stands, against the app under test."""
    first, archive, second = (block for language, block in BLOCKS if language == "python")
    first += "assert (end.type, _) == ('done', 'hello')\nwb.close()\n"
    archive += "assert kept.terminal == end\nwb.close()\n"
    second += "assert wb.clock.offset_s() >= 300\nassert wb.faults.rules() == []\nwb.close()\n"
    code = first + archive + second
    code = code.replace("\nwb.volume", "\n_ = wb.volume").replace(".connect()", f".connect(app_name={wb.app_name!r})")
    done = warm.run("-c", code, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert live_sandboxes() == []


def test_the_curl_of_the_readme_streams(wb: Workbench) -> None:
    (curl,) = (block for language, block in BLOCKS if language == "sh" and block.startswith("curl"))
    env = {"URL": wb.endpoint.url, "SECRET": wb.endpoint.secret.get_secret_value(), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", curl], env=env, capture_output=True, text=True, timeout=110, check=False)
    assert "event: done" in done.stdout, done.stdout + done.stderr
    assert SECRET_VARIABLE not in done.stdout


def test_the_stock_commands_of_the_readme_work(wb: Workbench, cloud: object) -> None:
    found = [shlex.split(line)[2:] for line in SHELL.splitlines() if line.startswith("uv run modal ")]
    assert len(found) == 3
    for _, *arguments in found:
        given = [word.replace("modal-workbench", wb.app_name) for word in arguments]
        done = warm.run("-m", "modal", *given, env=os.environ)
        assert done.returncode == 0, done.stderr


CODE = "import time; open('note', 'w').write(str(time.time())); print('out')"  # another file each time


def test_the_faults_of_the_readme_happen_and_are_told(wb: Workbench) -> None:
    """Each rule as it stands, one after the other, and a run that meets it."""
    lines = [line for line in SHELL.splitlines() if line.startswith("uv run workbench cloud fault add")]
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
