"""Images that only sandboxes use are named when a program is looked at, and built ahead of the first sandbox."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest

from tests.conftest import stop_apps
from tests.support.commands import Cli, cli
from tests.support.edited_endpoint import edited_endpoint
from workbench.deployment.images_ahead import ProgramUnreadableError, build, look
from workbench.local_cloud.process.state_directory import Running, State

PROGRAM = """
import modal
from boxes_images import imported

app = modal.App("boxes-{word}")
deployed = modal.Image.debian_slim().env({{"KIND": "{word} deployed"}})
alone = modal.Image.debian_slim().env({{"KIND": "{word} alone"}}).workdir("/tmp")
same = alone
several = [modal.Image.debian_slim().env({{"KIND": "{word} first"}}), 7]
named = {{"web": modal.Image.debian_slim().env({{"KIND": "{word} web"}}), "none": None}}
print("what a program prints is no answer")


@app.function(image=deployed)
def work() -> None: ...


def inside() -> modal.Image:
    return modal.Image.debian_slim().env({{"KIND": "made when it is called"}})
"""
WORDS = iter(range(1000))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program whose images no other test has built."""
    word = f"{os.getpid()}-{next(WORDS)}"
    (tmp_path / "boxes_images.py").write_text(
        f'import modal\n\nimported = modal.Image.debian_slim().env({{"KIND": "{word} imported"}})\n'
    )
    path = tmp_path / "boxes.py"
    path.write_text(PROGRAM.format(word=word))
    return path


@pytest.fixture
def env(cloud: Running) -> dict[str, str]:
    return {**os.environ, **cloud.env()}


def states(found: Any) -> dict[str, str]:
    return {image.name: image.state for image in found}


def built_here() -> list[str]:
    return sorted(one["image_id"] for one in json.loads(cli("cloud", "images", "list", "--json").stdout))


def test_looking_builds_nothing_and_names_what_only_sandboxes_use(
    program: Path, env: dict[str, str], modal_cli: Cli, state: State
) -> None:
    modal_cli("deploy", str(program))
    before = built_here()
    found = states(look([str(program)], env))
    assert found == {
        "imported": "not built",
        "deployed": "built",
        "alone": "not built",
        "several[0]": "not built",
        "named['web']": "not built",
    }
    assert built_here() == before


def test_what_is_built_ahead_is_what_a_sandbox_then_uses(program: Path, env: dict[str, str], state: State) -> None:
    lines: list[str] = []
    assert set(states(build([str(program)], env, on_line=lines.append)).values()) == {"built"}
    assert lines
    before = built_here()
    word = program.read_text().partition('App("boxes-')[2].partition('"')[0]
    image = modal.Image.debian_slim().env({"KIND": f"{word} alone"}).workdir("/tmp")
    app = modal.App.lookup("boxes-ahead", create_if_missing=True)
    sandbox = modal.Sandbox.create("sh", "-c", "echo $KIND in $PWD", app=app, image=image, timeout=60)
    try:
        assert sandbox.stdout.read() == f"{word} alone in /tmp\n"
    finally:
        sandbox.terminate()
    assert built_here() == before
    assert set(states(look([str(program)], env)).values()) == {"built"}


def test_a_change_of_a_step_is_not_built_again(program: Path, env: dict[str, str]) -> None:
    build([str(program)], env)
    program.write_text(program.read_text().replace('workdir("/tmp")', 'workdir("/")'))
    assert {name for name, state in states(look([str(program)], env)).items() if state == "not built"} == {"alone"}


def test_an_image_that_cannot_be_built_is_told_and_the_others_are_built(program: Path, env: dict[str, str]) -> None:
    program.write_text(program.read_text() + '\nbad = modal.Image.debian_slim().run_commands("exit 3")\n')
    found = {image.name: image for image in build([str(program)], env)}
    assert found["bad"].state == "failed"
    assert "exit code 3" in found["bad"].why or "refused" in found["bad"].why or "exit 3" in found["bad"].why
    assert {image.state for name, image in found.items() if name != "bad"} == {"built"}
    assert states(look([str(program)], env))["bad"] == "not built"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import modal\nraise ValueError('no luck')\n", "ValueError: no luck"),
        ("import modal\ndef\n", "SyntaxError"),
        ("import nowhere\n", "No module named 'nowhere'"),
        ("import sys\nsys.exit('left')\n", "left"),
    ],
)
def test_a_program_that_cannot_be_loaded_is_told(tmp_path: Path, env: dict[str, str], text: str, told: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ProgramUnreadableError, match=told):
        look([str(path)], env)


def test_a_program_without_images_has_none_and_a_missing_one_is_told(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "plain.py").write_text("import modal\napp = modal.App('plain')\n")
    assert look([str(tmp_path / "plain.py")], env) == ()
    with pytest.raises(ProgramUnreadableError, match=r"none\.py"):
        look([str(tmp_path / "none.py")], env)


@pytest.fixture
def in_place(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PYTHONPATH", str(program.parent))
    return program


def test_the_command_names_them_and_builds_them(in_place: Path, cloud: Running) -> None:
    told = cli("cloud", "images", "ahead", str(in_place))
    assert told.returncode == 1, told.stderr
    assert "not built  alone\n" in told.stdout
    assert "`--build` builds them now" in told.stdout
    built = cli("cloud", "images", "ahead", "-m", "boxes", "--build", "--json")
    assert built.returncode == 0, built.stderr
    assert {image["state"] for image in json.loads(built.stdout)} == {"built"}
    again = cli("cloud", "images", "ahead", str(in_place))
    assert (again.returncode, "not built" in again.stdout) == (0, False)


def test_the_command_needs_a_cloud(own_state: State, program: Path) -> None:
    done = cli("cloud", "images", "ahead", str(program), env={"WORKBENCH_STATE_DIR": str(own_state.root)})
    assert done.returncode == 3
    assert "start it with `workbench cloud start`" in done.stderr


def test_a_deployment_of_the_endpoint_names_them_and_builds_them_where_it_is_asked_to(
    cloud: Running, tmp_path: Path
) -> None:
    """The endpoint with an image that no function uses."""
    last = "sandbox_image = modal.Image.debian_slim()"
    spare = f'spare = modal.Image.debian_slim().env({{"SPARE": "{os.getpid()}"}})\n{last}'
    root = edited_endpoint(tmp_path, [("app.py", last, spare)])

    def deploy(*options: str) -> str:
        command = [sys.executable, "-m", "workbench", "deploy", "--app-name", "ahead-tests", *options]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("http://127.0.0.1:")
        return done.stderr

    try:
        assert "the image spare is not built, the first sandbox that uses it waits: --build-images" in deploy()
        assert "not built" not in deploy("--build-images")
    finally:
        stop_apps("ahead-tests")


def test_a_session_that_looks_for_no_images_imports_nothing_of_how_they_are_built() -> None:
    code = "import sys, workbench.session; print([one for one in sys.modules if 'local_cloud.images' in one])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
