"""Every sandbox has a root file system of its own, and what runs on it is root; of functions see the neighbour.

No step needs a network: the base is made of this machine's own packages.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import modal
import pytest
from modal.volume import FileEntryType

from tests.conftest import wait_until
from tests.standard.conformance.conftest import ON_MODAL
from tests.support.commands import Cli, cli
from tests.support.packages import wheel
from tests.support.processes import owners
from workbench.local_cloud.base.host import OWN_PYTHON
from workbench.local_cloud.process.state_directory import Running
from workbench.local_cloud.rootfs.ids import ids

TIMEOUT_S = 120
Shell = Callable[..., str]

AGENT = (
    modal.Image.debian_slim()
    .run_commands(
        "echo 'deb [trusted=yes] file:/srv/packages ./' | tee /etc/apt/sources.list.d/own.list > /dev/null",
        "useradd --create-home --shell /bin/bash claude && mkdir -p /workspace && chown claude:claude /workspace",
        "su claude -c 'umask 077; echo mine > ~/note'",
    )
    .env({"COLOUR": "deep blue"})
)


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("root-file-systems", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S)
    yield sandbox
    sandbox.terminate(wait=True)


def said(sandbox: modal.Sandbox, script: str) -> str:
    process = sandbox.exec("sh", "-ec", script)
    out = process.stdout.read()
    assert process.wait() == 0, (out, process.stderr.read())
    return str(out)


def test_programs_are_root_of_a_system_that_they_can_change(sandbox: modal.Sandbox) -> None:
    assert said(sandbox, "id -u; whoami; echo $COLOUR") == "0\nroot\ndeep blue\n"
    assert said(sandbox, "echo own > /usr/bin/own; rm /etc/issue; mkdir /var/lib/mine; cat /usr/bin/own") == "own\n"
    assert "own.list" in said(sandbox, "ls /etc/apt/sources.list.d")


PLAIN = {
    "no image": lambda: None,
    "debian_slim": modal.Image.debian_slim,
    "a version": lambda: modal.Image.debian_slim(python_version=OWN_PYTHON),
    "packages and files": lambda: (
        modal.Image.debian_slim()
        .pip_install("httpx")
        .env({"COLOUR": "green"})
        .workdir("/srv/app")
        .add_local_file(__file__, "/opt/own/this.py", copy=True)
    ),
    "a package of this machine": lambda: modal.Image.debian_slim().apt_install("git"),
}


@pytest.fixture(scope="module", params=PLAIN)
def plain(app: modal.App, request: pytest.FixtureRequest) -> Iterator[modal.Sandbox]:
    """A sandbox of an image that needs no root file system for its build."""
    sandbox = modal.Sandbox.create(app=app, image=PLAIN[request.param](), timeout=TIMEOUT_S)
    yield sandbox
    sandbox.terminate(wait=True)


def test_in_a_plain_image_all_of_the_file_system_can_be_written(plain: modal.Sandbox) -> None:
    assert said(plain, "id -u; id -g; whoami") == "0\n0\nroot\n"
    for directory in ("/etc", "/usr", "/usr/bin", "/root", "/home", "/opt", "/var/lib", "/", "/tmp"):
        assert (
            said(plain, f"echo x > {directory}/written && cat {directory}/written && rm {directory}/written") == "x\n"
        )
    assert said(
        plain, "rm /etc/issue /usr/bin/yes; mv /usr/bin/tac /usr/bin/cat-backwards; echo 1 | cat-backwards"
    ) == ("1\n")


def test_in_a_plain_image_users_can_be_made_and_become(plain: modal.Sandbox) -> None:
    said(
        plain,
        "useradd --create-home ann; echo hers > /home/ann/note; chown ann:ann /home/ann/note; chmod 600 /home/ann/note",
    )
    assert (
        said(plain, "su ann -c 'id -un; cat ~/note; touch /etc/x 2>/dev/null || echo refused'")
        == "ann\nhers\nrefused\n"
    )
    assert said(plain, "stat -c '%U %a' /home/ann/note") == "ann 600\n"


def test_in_a_plain_image_pip_installs(plain: modal.Sandbox, tmp_path: Path) -> None:
    made = wheel(tmp_path, "tiny", "1.0", "NAME = 'tiny'")
    plain.filesystem.write_bytes(made.read_bytes(), f"/root/{made.name}")
    said(plain, "python -m pip install -q --no-index /root/tiny-*.whl 2>&1")
    assert said(plain, "cd /; python -c 'import tiny; print(tiny.NAME)'; pip --version | cut -c1-3") == "tiny\npip\n"


def test_a_snapshot_of_a_plain_image_is_all_of_it(app: modal.App, plain: modal.Sandbox) -> None:
    said(
        plain,
        "echo 1 > /etc/one; echo 2 > /usr/lib/two; rm -rf /usr/share/keyrings; echo $COLOUR > /three",
    )
    look = "cat /etc/one /usr/lib/two /three; ls /usr/share/keyrings 2>/dev/null || echo gone; pwd; id -u; which python"
    expected = said(plain, look)
    image = plain.snapshot_filesystem()
    said(plain, "echo later > /etc/one")
    other = modal.Sandbox.create("sh", "-c", look, app=app, image=image, timeout=TIMEOUT_S)
    other.wait()
    assert other.stdout.read() == expected
    assert expected.startswith("1\n2\n")
    other.terminate(wait=True)


@pytest.mark.skipif(ON_MODAL, reason="its machine is not to be looked at")
def test_programs_of_a_plain_image_are_nobody_outside(plain: modal.Sandbox) -> None:
    plain.exec("sleep", "271828")
    wait_until(lambda: owners("sleep", "271828"), "the program is not seen")
    assert owners("sleep", "271828") == {ids().root}
    assert ids().root != 0


def test_users_of_the_image_are_users(sandbox: modal.Sandbox) -> None:
    assert said(sandbox, "su claude -c 'id -un; echo $HOME; cat ~/note; touch /workspace/made'") == (
        "claude\n/home/claude\nmine\n"
    )
    assert said(sandbox, "stat -c '%U %a' /home/claude/note /workspace/made") == "claude 600\nclaude 644\n"
    assert said(sandbox, "su claude -c 'touch /etc/x' 2>&1 || echo refused").endswith("refused\n")
    assert said(sandbox, "adduser --disabled-password --gecos '' second >/dev/null; id -u second") == "1001\n"


def test_what_one_sandbox_writes_another_does_not_see(app: modal.App, sandbox: modal.Sandbox) -> None:
    said(sandbox, "echo private > /opt/private")
    other = modal.Sandbox.create("sh", "-c", "ls /opt; cat /etc/hostname", app=app, image=AGENT, timeout=TIMEOUT_S)
    other.wait()
    assert "private" not in other.stdout.read()


def test_the_user_of_an_image_starts_its_programs(app: modal.App) -> None:
    """In builds, too; and they have no rights that the user would not have."""
    image = AGENT.dockerfile_commands("USER claude", "WORKDIR /workspace/deep", "RUN id -un > who && pwd >> who")
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=TIMEOUT_S)
    try:
        assert said(sandbox, "id -un; pwd; echo $HOME; cat who") == (
            "claude\n/workspace/deep\n/home/claude\nclaude\n/workspace/deep\n"
        )
        assert said(sandbox, "grep -c -E 'Cap(Prm|Eff|Amb):.*[1-9a-f]' /proc/self/status || true") == "0\n"
        sandbox.filesystem.write_text("through the SDK", "/workspace/deep/file")
        assert sandbox.filesystem.stat("/workspace/deep/file").owner == "claude"
    finally:
        sandbox.terminate(wait=True)


def test_volumes_are_shared_with_sandboxes_of_any_root(app: modal.App) -> None:
    volume = modal.Volume.from_name("root-file-systems", create_if_missing=True)
    own = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S, volumes={"/mnt/v": volume})
    try:
        said(own, "echo one > /mnt/v/one; su claude -c 'cat /mnt/v/one'; sync /mnt/v")
    finally:
        own.terminate(wait=True)
    plain = modal.Sandbox.create("sh", "-c", "cat /v/one; echo two > /v/two", app=app, volumes={"/v": volume})
    plain.wait()
    assert plain.stdout.read() == "one\n"
    plain.terminate(wait=True)
    again = modal.Sandbox.create("sh", "-c", "cat /v/two; rm /v/one", app=app, image=AGENT, volumes={"/v": volume})
    again.wait()
    assert again.stdout.read() == "two\n"
    again.terminate(wait=True)
    assert [(entry.path, entry.type) for entry in volume.listdir("/")] == [("two", FileEntryType.FILE)]


def test_a_snapshot_is_all_of_the_file_system(app: modal.App) -> None:
    first = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S)
    said(first, "useradd later; rm -r /usr/share/keyrings; ln -s /etc /usr/link; echo x > /workspace/x")
    said(first, "chown later /workspace/x; chmod 4750 /workspace/x; mkdir -p /var/new/deep; mv /home/claude /home/old")
    image = first.snapshot_filesystem()
    said(first, "echo after > /usr/after")
    first.terminate(wait=True)
    second = modal.Sandbox.create(app=app, image=image, timeout=TIMEOUT_S)
    try:
        assert said(second, "stat -c '%U %a' /workspace/x; readlink /usr/link; ls -d /var/new/deep /home/*") == (
            "later 4750\n/etc\n/home/old\n/var/new/deep\n"
        )
        assert said(second, "ls /usr/share/keyrings /usr/after 2>&1 || echo gone").endswith("gone\n")
        said(second, "echo third > /third")
        third = modal.Sandbox.create("cat", "/third", "/home/old/note", app=app, image=second.snapshot_filesystem())
        third.wait()
        assert third.stdout.read() == "third\nmine\n"
    finally:
        second.terminate(wait=True)


def test_a_directory_is_mounted_anywhere(app: modal.App, sandbox: modal.Sandbox) -> None:
    said(sandbox, "mkdir -p /opt/project/src; echo main > /opt/project/src/main")
    image = sandbox.snapshot_directory("/opt/project")
    other = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S)
    try:
        other.mount_image("/user_project", image)
        assert said(other, "cat /user_project/src/main") == "main\n"
        other.unmount_image("/user_project")
        assert said(other, "ls /user_project | wc -l") == "0\n"
    finally:
        other.terminate(wait=True)


@pytest.fixture(scope="module")
def other(app: modal.App) -> Iterator[modal.Sandbox]:
    """A sandbox in which images are mounted."""
    sandbox = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S)
    yield sandbox
    sandbox.terminate(wait=True)


@pytest.mark.parametrize("kind", ["rooted", "plain", "snapshot"])
def test_any_image_is_mounted_and_what_is_written_there_goes_with_the_mount(
    app: modal.App, sandbox: modal.Sandbox, other: modal.Sandbox, kind: str
) -> None:
    """Also one that shares this machine's system, which is given a root file system for it."""
    if kind == "snapshot":
        image, there = sandbox.snapshot_filesystem(), "home/claude/note"
    elif kind == "rooted":
        image, there = AGENT.build(app), "home/claude/note"
    else:
        plain = modal.Image.debian_slim().add_local_file(__file__, "/opt/own/file", copy=True)
        image, there = plain.build(app), "opt/own/file"
    other.mount_image("/usr/share", image)
    assert said(other, f"ls -d /usr/share/{there}; echo x > /usr/share/new").endswith(f"{there}\n")
    with pytest.raises(modal.exception.Error, match="something is mounted at"):
        other.mount_image("/usr/share/deeper", image)
    other.unmount_image("/usr/share")
    assert "new" not in said(other, "ls /usr/share").split()
    other.mount_image("/usr/share", image)
    assert "new" not in said(other, "ls /usr/share").split()
    other.unmount_image("/usr/share")


def test_an_empty_image_is_an_empty_directory(app: modal.App, sandbox: modal.Sandbox) -> None:
    sandbox.mount_image("/var/log", modal.Image.from_scratch().build(app))
    assert said(sandbox, "ls -A /var/log; echo mine > /var/log/mine; cat /var/log/mine") == "mine\n"
    sandbox.unmount_image("/var/log")
    assert "mine" not in said(sandbox, "ls -A /var/log")


def test_functions_run_in_their_image(modal_cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("rooted") / "rooted_function.py"
    source.write_text("""
import modal
image = modal.Image.debian_slim().run_commands("useradd worker | cat", "echo built > /usr/share/built")
image = image.workdir("/srv/app")
volume = modal.Volume.from_name("rooted-function", create_if_missing=True)
app = modal.App("rooted-function", image=image)

@app.function(volumes={"/data": volume})
def look(word):
    import os, pwd
    open("/usr/share/written", "w").write(word)
    open("/data/word", "w").write(word)
    volume.commit()
    return {"built": open("/usr/share/built").read(), "uid": os.getuid(), "worker": pwd.getpwnam("worker").pw_name,
            "cwd": os.getcwd(), "written": open("/usr/share/written").read()}

@app.function()
def fail():
    raise ValueError("as it should")
""")
    modal_cli("deploy", str(source))
    look = modal.Function.from_name("rooted-function", "look")
    assert look.remote("one") == {
        "built": "built\n",
        "uid": 0,
        "worker": "worker",
        "cwd": "/srv/app",
        "written": "one",
    }
    assert b"".join(modal.Volume.from_name("rooted-function").read_file("word")) == b"one"
    with pytest.raises(ValueError, match="as it should"):
        modal.Function.from_name("rooted-function", "fail").remote()


def test_images_are_listed_with_what_they_stand_on(app: modal.App, sandbox: modal.Sandbox) -> None:
    modal.Image.debian_slim().env({"SHARED": "1"}).build(app)
    listed = {image["image_id"]: image for image in json.loads(cli("cloud", "images", "list", "--json").stdout)}
    rooted = [image for image in listed.values() if image["base"] == "made of this machine's own system"]
    assert rooted
    assert all(image["layers"] >= 2 and image["size"] > 1_000_000 for image in rooted if image["state"] == "built")
    assert any(image["base"] == "this machine's system" for image in listed.values())
    assert "used  base" in cli("cloud", "images", "list").stdout


def test_a_reload_shows_what_others_have_committed(app: modal.App) -> None:
    volume = modal.Volume.from_name("root-file-systems-reload", create_if_missing=True)
    reader = modal.Sandbox.create(app=app, image=AGENT, timeout=TIMEOUT_S, volumes={"/srv/v": volume})
    try:
        said(reader, "echo own > /srv/v/own")
        with volume.batch_upload() as batch:
            batch.put_file(__file__, "other")
        reader.reload_volumes()
        assert said(reader, "ls /srv/v; cat /srv/v/own") == "other\nown\nown\n"
        said(reader, "mkdir /srv/v/d; mv /srv/v/other /srv/v/d/; chown claude /srv/v/d; rm /srv/v/own")
    finally:
        reader.terminate(wait=True)
    assert sorted(entry.path for entry in volume.listdir("/", recursive=True)) == ["d", "d/other"]
