"""What every program written for Modal takes for granted of a sandbox: a Python, a working directory, usual modes."""

from collections.abc import Callable

import modal
import pytest

from workbench.local_cloud.process.state_directory import Running


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("sandbox-basics", create_if_missing=True)


def said(sandbox: modal.Sandbox, *argv: str, workdir: str | None = None) -> str:
    process = sandbox.exec(*argv, workdir=workdir)
    out: str = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    return out


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(lambda: None, id="no image"),
        pytest.param(modal.Image.debian_slim, id="debian_slim"),
        pytest.param(lambda: modal.Image.from_registry("python:3.11-slim"), id="python:3.11-slim"),
        pytest.param(lambda: modal.Image.debian_slim(python_version="3.11").env({"A": "b"}), id="a version, a layer"),
    ],
)
def test_a_sandbox_has_python_by_its_usual_names(app: modal.App, image: Callable[[], modal.Image | None]) -> None:
    sandbox = modal.Sandbox.create(app=app, image=image(), timeout=60)
    try:
        for name in ("python", "python3", "/usr/local/bin/python"):
            assert said(sandbox, name, "-c", "import json, ssl, sqlite3; print(6 * 7)") == "42\n"
        assert said(sandbox, "env", "-i", "PATH=/usr/local/bin", "python", "-c", "print(1)") == "1\n"
        assert said(sandbox, "sh", "-c", "printf '#!/usr/bin/env python\nprint(2)' > s; chmod +x s; ./s") == "2\n"
    finally:
        sandbox.terminate()


@pytest.mark.parametrize("workdir", ["/work", "/a/b/c", "/srv", "/tmp/deep/er", "/root/project", "/opt/tool", "/v/sub"])
def test_a_working_directory_that_is_not_there_is_made(app: modal.App, workdir: str) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, workdir=workdir, volumes={"/v": volume}, timeout=60)
        try:
            assert said(sandbox, "sh", "-c", "pwd; echo written > new; cat new") == f"{workdir}\nwritten\n"
            sandbox.filesystem.write_text("two", f"{workdir}/second")
            assert said(sandbox, "ls") == "new\nsecond\n"
        finally:
            sandbox.terminate()


def test_files_of_the_image_at_the_working_directory_stay_seen(app: modal.App) -> None:
    image = modal.Image.debian_slim().dockerfile_commands("COPY note /app/note", context_files={"note": __file__})
    for workdir in ("/app", "/app/new"):
        sandbox = modal.Sandbox.create(app=app, image=image, workdir=workdir, timeout=60)
        try:
            assert said(sandbox, "pwd") == f"{workdir}\n"
            assert "what every program" in said(sandbox, "cat", "/app/note").lower()
        finally:
            sandbox.terminate()


@pytest.mark.parametrize(
    ("workdir", "reason"),
    [
        ("/proc/none", "No such file or directory"),
        ("/etc/passwd/none", "Not a directory"),
        ("/dev/none", "Read-only file system"),
    ],
)
def test_a_working_directory_that_cannot_be_made_is_refused_with_its_reason(
    app: modal.App, workdir: str, reason: str
) -> None:
    with pytest.raises(modal.exception.Error, match=f"working directory {workdir} cannot be made: {reason}"):
        modal.Sandbox.create(app=app, workdir=workdir, timeout=60)


def test_what_a_program_makes_has_the_usual_modes(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, volumes={"/v": volume}, workdir="/v", timeout=60)
        try:
            modes = "umask; touch file; mkdir directory; stat -c '%a %n' file directory"
            assert said(sandbox, "sh", "-c", modes) == "0022\n644 file\n755 directory\n"
            sandbox.filesystem.write_text("x", "/v/by-the-sdk")
            assert said(sandbox, "stat", "-c", "%a", "/v/by-the-sdk") == "644\n"
        finally:
            sandbox.terminate()


@pytest.mark.parametrize("mode", ["755", "600", "640"])
def test_a_file_that_is_written_over_keeps_its_mode(app: modal.App, mode: str) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    try:
        said(sandbox, "sh", "-c", f"echo old > script; chmod {mode} script")
        sandbox.filesystem.write_bytes(b"new", "/root/script")
        sandbox.filesystem.write_text("newer", "/root/script")
        assert said(sandbox, "sh", "-c", "stat -c %a script; cat script") == f"{mode}\nnewer"
    finally:
        sandbox.terminate()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exec > >(sed s/^/j/); echo a", "ja\n"),
        ("exec > >(tee log); echo a; echo b", "a\nb\n"),
        ("(sleep 0.3; echo late) & echo now", "now\nlate\n"),
    ],
)
def test_what_a_command_has_started_prints_to_its_end(app: modal.App, script: str, expected: str) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    try:
        assert said(sandbox, "bash", "-c", script) == expected
    finally:
        sandbox.terminate()


def test_a_server_in_the_background_serves_on(app: modal.App) -> None:
    """It prints a line for each request: with its output closed it would die of the first one."""
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    get = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').read().decode())"
    try:
        serve = "python -m http.server --bind 127.0.0.1 8000 & for i in $(seq 99); do sleep 0.1; "
        serve += f'python -c "{get}" > /dev/null && break; done'
        said(sandbox, "sh", "-c", serve)
        for _ in range(3):
            assert "Directory listing" in said(sandbox, "python", "-c", get)
    finally:
        sandbox.terminate()
