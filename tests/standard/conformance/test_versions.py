"""An app's versions and environments through the stock CLI."""

import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import modal
import pytest

from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running

SOURCE = """
import modal
app = modal.App("{name}", tags={{"team": "{word}"}})

@app.function()
def word():
    return "{word}"

@app.function()
def only_in_{word}():
    return 1

@app.cls()
class Speaker:
    start: str = modal.parameter(default="")

    @modal.method()
    def say(self):
        return self.start + "{word}"

@app.function()
@modal.asgi_app()
def page():
    async def answer(scope, receive, send):
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"{word}"}})
    return answer
"""


@pytest.fixture
def name(modal_cli: Cli) -> Iterator[str]:
    name = f"versions-{uuid.uuid4().hex[:8]}"
    yield name
    modal_cli("app", "stop", name, "--yes", check=False)


def deploy(modal_cli: Cli, directory: Path, name: str, word: str) -> None:
    (directory / f"{word}.py").write_text(SOURCE.format(name=name, word=word))
    modal_cli("deploy", str(directory / f"{word}.py"), "--tag", word)


def said(name: str) -> str:
    return str(modal.Function.from_name(name, "word").remote())


def test_an_earlier_version_comes_back_whole(modal_cli: Cli, tmp_path: Path, name: str) -> None:
    deploy(modal_cli, tmp_path, name, "red")
    assert said(name) == "red"
    deploy(modal_cli, tmp_path, name, "blue")
    assert said(name) == "blue"
    assert "local-cloud://apps/ap-" in modal_cli("app", "rollback", name)
    assert said(name) == "red"
    assert modal.Function.from_name(name, "only_in_red").remote() == 1
    with pytest.raises(modal.exception.NotFoundError):
        modal.Function.from_name(name, "only_in_blue").remote()
    modal_cli("app", "rollback", name, "v2")
    assert said(name) == "blue"
    history = modal_cli("app", "history", name)
    assert re.findall(r"^\W*v(\d)\b", history, re.MULTILINE) == ["4", "3", "2", "1"], history
    assert history.count(modal.__version__) == 4
    refused = modal_cli("app", "rollback", name, "v9", check=False)
    assert "has no version 9" in refused
    assert said(name) == "blue"


def test_the_history_tells_the_commit_of_each_version(cloud: Running, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    in_repository = {"GIT_DIR": str(source / ".git"), "GIT_WORK_TREE": str(source)}
    modal_cli = Cli({**cloud.env(), **in_repository})

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", "-C", source, "-c", "user.name=n", "-c", "user.email=e@example.com", *words),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    git("init", "--quiet")
    (source / ".gitignore").write_text("*.py\n__pycache__\n")
    git("add", ".gitignore")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")[:7]
    deploy(modal_cli, source, name, "red")
    (source / ".gitignore").write_text("*.py\n__pycache__\n*.txt\n")
    deploy(modal_cli, source, name, "blue")
    modal_cli("app", "rollback", name)
    rows = modal_cli("app", "history", name)
    assert re.findall(rf"\bv(\d)\b.*\b{commit}(\*?)", rows) == [("3", ""), ("2", "*"), ("1", "")], rows


def test_a_function_is_called_as_it_was_in_a_version_whatever_is_deployed_now(
    modal_cli: Cli, tmp_path: Path, name: str
) -> None:
    deploy(modal_cli, tmp_path, name, "red")
    first = modal.Function.from_name(name, "word", version=1)
    assert first.remote() == "red"
    deploy(modal_cli, tmp_path, name, "blue")
    assert first.remote() == "red"  # also one that was looked up while its version was the newest
    for version, word in ((1, "red"), (2, "blue")):
        assert modal.Function.from_name(name, "word", version=version).remote() == word
        speaker = modal.Cls.from_name(name, "Speaker", version=version)(start="so ")
        assert speaker.say.remote() == f"so {word}"
        url = modal.Function.from_name(name, "page", version=version).get_web_url()
        assert httpx.get(url or "", timeout=60).text == word
    assert said(name) == "blue"
    with pytest.raises(modal.exception.NotFoundError, match="no version 3: it has 1 to 2"):
        modal.Function.from_name(name, "word", version=3).hydrate()
    with pytest.raises(modal.exception.NotFoundError, match="'only_in_blue' of version 1 of"):
        modal.Function.from_name(name, "only_in_blue", version=1).hydrate()
    for version in (None, 1):
        with pytest.raises(modal.exception.NotFoundError, match=r"is a modal\.Cls\. Use `modal\.Cls\.from_name`"):
            modal.Function.from_name(name, "Speaker", version=version).hydrate()


def test_a_rollover_brings_new_containers_of_the_same_code(modal_cli: Cli, tmp_path: Path, name: str) -> None:
    deploy(modal_cli, tmp_path, name, "red")
    assert said(name) == "red"
    for strategy in ("rolling", "recreate"):
        modal_cli("app", "rollover", name, "--strategy", strategy)
        assert said(name) == "red"
    app = modal.App.lookup(name)
    assert app.get_tags() == {"team": "red"}
    app.set_tags({"team": "green"})
    assert app.get_tags() == {"team": "green"}


def test_environments_keep_names_apart(modal_cli: Cli, name: str) -> None:
    modal_cli("environment", "create", name)
    try:
        assert "already exists" in modal_cli("environment", "create", name, check=False)
        with modal.Dict.ephemeral(environment_name=name):
            pass
        modal.Volume.from_name("same", create_if_missing=True, environment_name=name).hydrate()
        with pytest.raises(modal.exception.NotFoundError):
            modal.Volume.from_name("same").hydrate()
        assert "still holds the volume 'same'" in modal_cli("environment", "delete", name, "--yes", check=False)
        renamed = f"{name}-2"
        modal_cli("environment", "update", name, "--set-name", renamed)
        modal.Volume.from_name("same", environment_name=renamed).hydrate()
        with pytest.raises(modal.exception.NotFoundError, match="not found"):
            modal.Volume.from_name("same", create_if_missing=True, environment_name=name).hydrate()
        with pytest.raises(modal.exception.NotFoundError, match="not found"):
            modal.App.lookup("x", create_if_missing=True, environment_name=name)
        modal.Volume.objects.delete("same", environment_name=renamed)
        modal_cli("environment", "delete", renamed, "--yes")
        assert renamed not in modal_cli("environment", "list")
    finally:
        modal_cli("environment", "delete", name, "--yes", check=False)
    assert "default one" in modal_cli("environment", "delete", "main", "--yes", check=False)


def test_a_stopped_app_still_tells_its_history_by_name(modal_cli: Cli, tmp_path: Path, name: str) -> None:
    deploy(modal_cli, tmp_path, name, "red")
    modal_cli("app", "stop", name, "--yes")
    assert re.search(r"^\W*v1\b", modal_cli("app", "history", name), re.MULTILINE)
    assert "in the 'main' environment" in modal_cli("app", "history", f"{name}-none", check=False)


def test_a_running_sandbox_moves_along_when_its_environment_is_renamed(modal_cli: Cli, name: str) -> None:
    renamed = f"{name}-2"
    modal_cli("environment", "create", name)
    app = modal.App.lookup("moving", create_if_missing=True, environment_name=name)
    sandbox = modal.Sandbox.create("sleep", "60", app=app, name="one", timeout=60)
    try:
        modal_cli("environment", "update", name, "--set-name", renamed)
        found = modal.Sandbox.from_name("moving", "one", environment_name=renamed)
        assert found.object_id == sandbox.object_id
        assert "ta-" in modal_cli("container", "list", "--env", renamed, "--json")
        assert "terminate 1 running container" in modal_cli("app", "stop", str(app.app_id), check=False, stdin="n\n")
    finally:
        sandbox.terminate(wait=True)
        modal_cli("app", "stop", str(app.app_id), "--yes")
        modal_cli("environment", "delete", renamed, "--yes")
