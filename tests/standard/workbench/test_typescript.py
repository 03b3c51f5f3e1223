"""The client in TypeScript reaches an application whole, and leaves alone what the team has made its own."""

import json
import os
import re
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import SecretStr

from modal_app.contract.caps import MAX_BODY_BYTES
from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from modal_app.contract.openapi import errors
from modal_app.endpoint_settings import Timeouts
from tests.support.commands import cli
from workbench.deployment.endpoint import Endpoint
from workbench.typescript import application, env_file
from workbench.typescript.constants import constants

SECRET = "a-secret-of-the-endpoint-1234567890"
ENDPOINT = Endpoint(url="http://127.0.0.1:9", secret=SecretStr(SECRET))


@pytest.fixture(params=["lib", "src/lib"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An application of either layout that `create-next-app` makes."""
    (tmp_path / "package.json").write_text("{}")
    if request.param.startswith("src"):
        (tmp_path / "src").mkdir()
    return tmp_path


def home(app: Path) -> Path:
    return application.home_of_client(app)


def test_all_of_it_is_added_once(app: Path) -> None:
    done = application.add(app)
    assert {app / name for name in done.written} == {home(app) / name for name in application.shipped()}
    assert {path.name for path in home(app).iterdir()} == {*application.shipped(), "workbench.json"}
    again = application.add(app)
    assert (again.written, again.removed, again.kept) == ((), (), ())
    assert application.difference(app) == ""
    assert json.loads((home(app) / "workbench.json").read_text())["version"] == version("modal-workbench")


def test_a_newer_version_replaces_what_nobody_has_changed_and_names_the_rest(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.add(app)
    ours = home(app) / "sse.ts"
    ours.write_text("// the team's\n")
    newer = {**application.shipped(), "errors.ts": "// new\n", "sse.ts": "// new, too\n", "added.ts": "// added\n"}
    del newer["resume.ts"]
    monkeypatch.setattr(application, "shipped", lambda: newer)
    diff = application.difference(app)
    assert "-// the team's\n+// new, too\n" in diff
    assert "--- /dev/null\n" in diff
    assert "+++ /dev/null\n" in diff, "a file that is no longer shipped goes"
    assert ours.read_text() == "// the team's\n", "a difference changes nothing"
    for _ in range(2):  # what is the team's stays so
        done = application.add(app)
        assert [Path(name).name for name in done.kept] == ["sse.ts"]
    assert (home(app) / "errors.ts").read_text() == "// new\n"
    assert (home(app) / "added.ts").exists()
    assert not (home(app) / "resume.ts").exists()
    done = application.add(app, replace=True)
    assert [Path(name).name for name in done.written] == ["sse.ts"]
    assert application.difference(app) == ""


@pytest.mark.parametrize("files", [("ai-sdk.ts",), ("ai-sdk.ts", "conversation.ts", "use-run.ts")])
@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_what_the_team_has_changed_or_deleted_stays_so_and_is_no_news(
    app: Path, files: tuple[str, ...], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.add(app)
    for name in files:
        if how == "changed":
            (home(app) / name).write_bytes(b"// the team's \xff\r\n")
        else:
            (home(app) / name).unlink()
    there = {path.name: path.read_bytes() for path in home(app).iterdir()}
    assert application.difference(app) == ""
    assert application.difference(app, replace=True).count("\n@@ ") == len(files)
    done = application.add(app)
    assert (done.written, done.removed, done.kept) == ((), (), ())
    newer = application.shipped() | {files[0]: "// new\n"}
    monkeypatch.setattr(application, "shipped", lambda: newer)
    assert "+// new\n" in application.difference(app)
    assert [Path(name).name for name in application.add(app).kept] == [files[0]]
    assert {path.name: path.read_bytes() for path in home(app).iterdir()} == there
    assert [Path(name).name for name in application.add(app, replace=True).written] == sorted(files)


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": {"../../package.json": "x"}}'])
def test_a_manifest_that_says_nothing_keeps_what_is_there(app: Path, manifest: str) -> None:
    application.add(app)
    (home(app) / "workbench.json").write_text(manifest)
    (home(app) / "client.ts").write_text("// the team's\n")
    assert [Path(name).name for name in application.add(app).kept] == ["client.ts"]
    assert (app / "package.json").exists()


def test_a_directory_that_is_no_application_is_left_alone(tmp_path: Path) -> None:
    for arguments in (("--diff",), ("--no-env",), ()):
        refused = cli("next", "add", str(tmp_path), *arguments)
        assert (refused.returncode, "package.json" in refused.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_does_and_whether_anything_would_change(app: Path) -> None:
    assert cli("next", "add", str(app), "--diff").returncode == 1
    assert list(app.rglob("*.ts")) == []
    done = cli("next", "add", str(app), "--no-env")
    assert (done.returncode, "client.ts" in done.stdout) == (0, True)
    assert (cli("next", "add", str(app), "--diff").returncode, (app / ".env.local").exists()) == (0, False)


def test_the_address_and_the_secret_are_for_the_server_and_its_owner_alone(app: Path) -> None:
    path = app / ".env.local"
    path.write_text('OTHER="1"\nexport WORKBENCH_SECRET=old\nWORKBENCH_URL=old\n# a remark\n')
    path.chmod(0o644)
    assert env_file.write(app, ENDPOINT)
    assert path.read_text() == (
        f"OTHER=\"1\"\n# a remark\nWORKBENCH_URL='http://127.0.0.1:9'\nWORKBENCH_SECRET='{SECRET}'\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not env_file.write(app, ENDPOINT)
    assert "NEXT_PUBLIC" not in path.read_text()
    assert [one.name for one in app.iterdir() if one.name.startswith(".env")] == [".env.local"]


@pytest.mark.parametrize(
    ("secret", "written"),
    [("a'b" * 8, '"' + "a'b" * 8 + '"'), ("a$b" * 8, "'" + r"a\$b" * 8 + "'"), ("a#b c" * 5, "'" + "a#b c" * 5 + "'")],
)
def test_a_secret_of_any_characters_is_read_back_as_it_is(tmp_path: Path, secret: str, written: str) -> None:
    env_file.write(tmp_path, Endpoint(url="http://a", secret=SecretStr(secret)))
    assert (tmp_path / ".env.local").read_text().endswith(f"WORKBENCH_SECRET={written}\n")


@pytest.mark.parametrize("secret", ["'\"`" * 8, "line\nline" * 4, "back\\slash" * 3])
def test_a_secret_that_could_not_be_read_back_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(env_file.UnsafePlaceError) as refused:
        env_file.write(tmp_path, Endpoint(url="http://a", secret=SecretStr(secret)))
    assert secret not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ignored", "safe"), [("", False), ("node_modules\n", False), (".env*\n", True)])
def test_a_secret_is_not_written_where_git_would_commit_it(app: Path, *, ignored: str, safe: bool) -> None:
    subprocess.run(["git", "init", "-q"], cwd=app, check=True, env={**os.environ, "HOME": str(app)})
    (app / ".gitignore").write_text(ignored)
    if safe:
        assert env_file.write(app, ENDPOINT)
        return
    with pytest.raises(env_file.UnsafePlaceError, match=r"\.gitignore"):
        env_file.write(app, ENDPOINT)
    assert not (app / ".env.local").exists()


@pytest.mark.parametrize("heartbeat_s", [0.5, 10, 15])
def test_the_constants_are_those_of_the_models_and_of_the_settings(heartbeat_s: float) -> None:
    settings = Timeouts(heartbeat_s=heartbeat_s, disconnect_grace_s=7)
    text = constants(settings)
    found = dict(re.findall(r"^export const (\w+) = (\S+);$", text, re.MULTILINE))
    values = {name: json.loads(value) for name, value in found.items()}
    assert values["HEARTBEAT_S"] == heartbeat_s
    assert values["DISCONNECT_GRACE_S"] == 7
    assert values["FUNCTION_S"] == settings.function_s
    assert values["MAX_BODY_BYTES"] == MAX_BODY_BYTES
    assert [values[name] for name in ("SECRET_HEADER", "RUN_HEADER", "KEY_HEADER")] == [
        *(SECRET_HEADER, RUN_HEADER, KEY_HEADER)
    ]
    table = text[text.index("export const ERRORS = ") + 22 : text.index(" as const satisfies")]
    assert json.loads(table) == errors()
    assert cli("contract", "constants", env={"WORKBENCH_TIMEOUT_HEARTBEAT_S": f"{heartbeat_s}"}).stdout.count("\n") > 20
