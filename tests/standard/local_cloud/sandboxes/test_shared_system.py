"""Where no root file system can be made, sandboxes share this machine's system: read-only, as an unprivileged user.

Here it is an ordinary user without subordinate ids who cannot make one.
"""

import json
import os
from collections.abc import Iterator

import modal
import pytest

from tests.support.ordinary_user import run_as_ordinary_user
from workbench.local_cloud.process.state_directory import Running, State
from workbench.local_cloud.rootfs.ids import NoRangeError, ids


def _can_make_roots() -> bool:
    try:
        ids()
    except NoRangeError:
        return False
    return True


inside = pytest.mark.skipif(_can_make_roots(), reason="this user can make root file systems")


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("shared-system", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    image = modal.Image.debian_slim().dockerfile_commands("COPY note /data/note", context_files={"note": __file__})
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
    yield sandbox
    sandbox.terminate(wait=True)


def said(sandbox: modal.Sandbox, script: str) -> str:
    process = sandbox.exec("sh", "-c", script)
    return str(process.stdout.read())


@inside
def test_the_system_is_read_only_and_nobody_is_root(sandbox: modal.Sandbox) -> None:
    assert said(sandbox, "id -u; head -c 3 /data/note; python --version | cut -c1-7") == '1000\n"""Python \n'
    for path in ("/etc/x", "/usr/x", "/data/note", "/home/x", "/opt/x"):
        assert said(sandbox, f"{{ echo x > {path}; }} 2>/dev/null && echo written || echo refused") == "refused\n"
    assert said(sandbox, "echo x > /tmp/x && echo y > /root/y && cat /tmp/x /root/y") == "x\ny\n"


@inside
def test_its_snapshot_is_what_can_be_written(app: modal.App, sandbox: modal.Sandbox) -> None:
    said(sandbox, "echo kept > /root/kept")
    image = sandbox.snapshot_filesystem()
    other = modal.Sandbox.create("sh", "-c", "id -u; cat /root/kept", app=app, image=image, timeout=60)
    assert other.stdout.read() == "1000\nkept\n"
    other.terminate(wait=True)


@inside
def test_a_directory_is_mounted_where_it_can_be_written(sandbox: modal.Sandbox) -> None:
    said(sandbox, "mkdir -p /tmp/made")
    image = sandbox.snapshot_directory("/tmp/made")
    with pytest.raises(modal.exception.Error, match="/tmp or /root"):
        sandbox.mount_image("/user_project", image)


@inside
def test_the_cloud_s_log_says_why(state: State, sandbox: modal.Sandbox) -> None:
    lines = [json.loads(line) for line in state.log.read_text().splitlines()]
    started = [line for line in lines if line["event"] == "sandbox.started" and line["sandbox_id"] == sandbox.object_id]
    assert [bool(line["shares_the_system"]) for line in started] == [True]


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
def test_it_is_so_for_an_ordinary_user_without_ids() -> None:
    assert run_as_ordinary_user("tests/standard/local_cloud/sandboxes/test_shared_system.py") == 4
