"""Snapshots of sandboxes and of directories, through the stock SDK."""

from collections.abc import Iterator

import modal
import pytest
from modal.exception import InvalidError, NotFoundError

from tests.conftest import wait_until
from workbench.local_cloud.process.state_directory import Running


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("snapshot-tests", create_if_missing=True)


@pytest.fixture
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create(app=app, timeout=300)
    yield sandbox
    sandbox.terminate()


def shell(sandbox: modal.Sandbox, script: str) -> str:
    process = sandbox.exec("sh", "-ec", script)
    said = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    return said


def test_a_sandbox_starts_with_the_files_of_another(app: modal.App, sandbox: modal.Sandbox) -> None:
    """They are there before its program begins, with modes, links and names as they were."""
    shell(sandbox, "mkdir -p /tmp/d/e; echo 1 > /tmp/d/f; chmod 750 /tmp/d/f; ln -s f /tmp/d/l; echo home > /root/.rc")
    sandbox.filesystem.write_bytes(bytes(range(256)) * 8192, "/tmp/d/e/grün")
    image = sandbox.snapshot_filesystem()
    shell(sandbox, "rm -r /tmp/d")
    other = modal.Sandbox.create("sh", "-c", "cat /tmp/d/l /root/.rc", app=app, image=image, timeout=60)
    assert other.stdout.read() == "1\nhome\n"
    again = modal.Sandbox.create(app=app, image=modal.Image.from_id(image.object_id), timeout=60)
    try:
        assert again.filesystem.read_bytes("/tmp/d/e/grün") == bytes(range(256)) * 8192
        assert again.filesystem.stat("/tmp/d/f").permissions == "0750"
        assert again.filesystem.stat("/tmp/d/l").symlink_target == "f"
        shell(again, "echo more > /tmp/more")
        third = modal.Sandbox.create("cat", "/tmp/more", "/tmp/d/f", app=app, image=again.snapshot_filesystem())
        assert third.stdout.read() == "more\n1\n"
    finally:
        again.terminate()


def test_a_snapshot_keeps_the_image_s_environment(app: modal.App) -> None:
    image = modal.Image.debian_slim().env({"COLOUR": "green"}).workdir("/tmp")
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
    snapshot = sandbox.snapshot_filesystem()
    sandbox.terminate()
    other = modal.Sandbox.create("sh", "-c", "echo $COLOUR; pwd", app=app, image=snapshot, timeout=60)
    assert other.stdout.read() == "green\n/tmp\n"


def test_a_volume_is_not_part_of_a_snapshot(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/tmp/v": volume})
        shell(sandbox, "echo secret > /tmp/v/f; echo plain > /tmp/f")
        image = sandbox.snapshot_filesystem()
        sandbox.terminate(wait=True)
    other = modal.Sandbox.create("sh", "-c", "ls -A /tmp", app=app, image=image, timeout=60)
    assert other.stdout.read().split() == ["f", "v"]  # its place, without its files
    empty = modal.Sandbox.create("sh", "-c", "ls -A /tmp/v", app=app, image=image, timeout=60)
    assert empty.stdout.read() == ""


def test_a_directory_is_mounted_elsewhere_and_unmounted(app: modal.App, sandbox: modal.Sandbox) -> None:
    shell(sandbox, "mkdir -p /tmp/src/deep; echo 1 > /tmp/src/deep/f; echo 2 > /tmp/outside")
    image = sandbox.snapshot_directory("/tmp/src")
    other = modal.Sandbox.create(app=app, timeout=60)
    try:
        shell(other, "mkdir -p /tmp/at; echo under > /tmp/at/old")
        other.mount_image("/tmp/at", image)
        assert shell(other, "cat /tmp/at/deep/f; ls /tmp/at") == "1\ndeep\n"
        with pytest.raises(InvalidError):
            other.mount_image("/tmp/at/deep", image)
        shell(other, "echo changed > /tmp/at/deep/f")
        other.unmount_image("/tmp/at")
        assert shell(other, "cat /tmp/at/old; ls /tmp/at") == "under\nold\n"
        other.mount_image("/root/new/place", modal.Image.from_id(image.object_id))
        assert shell(other, "cat /root/new/place/deep/f") == "1\n"
        with pytest.raises(InvalidError):
            other.unmount_image("/tmp/at")
    finally:
        other.terminate()


@pytest.mark.parametrize(
    ("path", "told"), [("/tmp/none", "No such file"), ("/tmp/file", "Not a directory"), ("/proc/1/root", "ermission")]
)
def test_what_is_no_readable_directory_is_not_kept(sandbox: modal.Sandbox, path: str, told: str) -> None:
    shell(sandbox, "touch /tmp/file")
    with pytest.raises(modal.exception.Error, match=told):
        sandbox.snapshot_directory(path)


@pytest.mark.parametrize("path", ["/proc", "/proc/x", "/dev/x", "/tmp/../etc", "/"])
def test_an_image_is_mounted_where_the_sandbox_may_write_only(sandbox: modal.Sandbox, path: str) -> None:
    shell(sandbox, "mkdir -p /tmp/src")
    image = sandbox.snapshot_directory("/tmp/src")
    with pytest.raises(modal.exception.Error):
        sandbox.mount_image(path, image)


def test_a_directory_s_snapshot_is_refused_as_a_root_file_system(sandbox: modal.Sandbox, app: modal.App) -> None:
    shell(sandbox, "mkdir -p /tmp/src")
    with pytest.raises(modal.exception.Error, match="snapshot_directory"):
        modal.Sandbox.create(app=app, image=sandbox.snapshot_directory("/tmp/src"), timeout=60)


def test_a_snapshot_expires(app: modal.App, sandbox: modal.Sandbox) -> None:
    image = sandbox.snapshot_filesystem(ttl=1)
    kept = sandbox.snapshot_filesystem(ttl=None)

    def is_gone() -> bool:
        try:
            modal.Sandbox.create(app=app, image=image, timeout=60).terminate()
        except NotFoundError:
            return True
        return False

    wait_until(is_gone, "an expired snapshot is used")
    modal.Sandbox.create(app=app, image=kept, timeout=60).terminate()


def test_a_guest_that_is_in_the_way_of_the_snapshot_does_not_stop_it(app: modal.App, sandbox: modal.Sandbox) -> None:
    """Files are copied outside: a pipe is kept as a pipe, links are not followed, and no program can be killed."""
    shell(sandbox, "mkfifo /tmp/pipe; ln -s / /tmp/root; ln -s loop /tmp/loop; truncate -s 700M /tmp/sparse")
    killer = (
        "while :; do for p in /proc/[0-9]*; do grep -q 'fs-sna[p]shot' $p/cmdline && kill -9 ${p#/proc/}; done; done"
    )
    process = sandbox.exec("sh", "-c", f"echo on; {killer} 2>/dev/null")
    next(iter(process.stdout))
    shell(sandbox, "head -c 200000000 /dev/urandom > /tmp/large")
    image = sandbox.snapshot_filesystem(timeout=300)
    look = "stat -c '%F %s' /tmp/pipe /tmp/sparse /tmp/large; readlink /tmp/root /tmp/loop"
    other = modal.Sandbox.create("sh", "-c", look, app=app, image=image, timeout=60)
    assert other.stdout.read() == "fifo 0\nregular file 734003200\nregular file 200000000\n/\nloop\n"


def test_a_guest_that_stops_the_program_gets_no_snapshot_of_a_directory(sandbox: modal.Sandbox) -> None:
    """That is packed inside: a killed program is no snapshot."""
    killer = (
        "while :; do for p in /proc/[0-9]*; do grep -q 'fs-sna[p]shot' $p/cmdline && kill -9 ${p#/proc/}; done; done"
    )
    process = sandbox.exec("sh", "-c", f"echo on; {killer} 2>/dev/null")
    next(iter(process.stdout))
    shell(sandbox, "mkdir /tmp/src; head -c 200000000 /dev/urandom > /tmp/src/large")
    with pytest.raises(modal.exception.Error, match="cannot be taken"):
        sandbox.snapshot_directory("/tmp/src")
