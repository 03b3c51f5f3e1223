"""Every function's container has a root file system of its own, writable and private, and its programs are root."""

from collections.abc import Callable, Iterator
from pathlib import Path

import modal
import pytest

from tests.conftest import wait_until
from tests.standard.conformance.conftest import ON_MODAL
from tests.support.packages import wheel
from tests.support.processes import owners
from workbench.local_cloud.process.state_directory import Running, State
from workbench.local_cloud.rootfs.ids import ids

Said = Callable[..., str]

# None of them needs a root file system for its build.
IMAGES = {
    "debian_slim": modal.Image.debian_slim,
    "packages and files": lambda: (
        modal.Image.debian_slim()
        .pip_install("httpx")
        .env({"COLOUR": "green"})
        .workdir("/srv/app")
        .add_local_file(__file__, "/opt/own/this.py", copy=True)
    ),
    "files beside those of the image": lambda: (
        modal.Image.debian_slim()
        .add_local_file(__file__, "/opt/own/copied.py", copy=True)
        .add_local_file(__file__, "/opt/own/mounted.py")
    ),
}


def _shell() -> Callable[..., tuple[int, str]]:
    def run(script: str, files: dict[str, bytes] | None = None) -> tuple[int, str]:  # nothing of this module is there
        import subprocess
        from pathlib import Path

        for name, content in (files or {}).items():
            Path("/root", name).write_bytes(content)
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def volume(cloud: Running) -> modal.Volume:
    return modal.Volume.from_name("function-roots", create_if_missing=True)


@pytest.fixture(scope="module", params=IMAGES)
def said(request: pytest.FixtureRequest, volume: modal.Volume) -> Iterator[Said]:
    """Runs a script in the one container of a function."""
    app = modal.App(image=IMAGES[request.param]())
    kept = {"max_containers": 1, "volumes": {"/data": volume}, "secrets": [modal.Secret.from_dict({"TOKEN": "t0"})]}
    function = app.function(serialized=True, timeout=100, **kept)(_shell())

    def said(script: str, **files: bytes) -> str:
        code, out = function.remote(script, files)
        assert code == 0, out
        return str(out)

    with app.run():
        yield said


def test_all_of_the_file_system_can_be_written(said: Said) -> None:
    assert said("id -u; id -g; whoami; echo $HOME $TOKEN") == "0\n0\nroot\n/root t0\n"
    for directory in ("/etc", "/usr", "/usr/bin", "/root", "/home", "/opt", "/var/lib", "/", "/tmp", "/dev/shm"):
        assert said(f"echo x > {directory}/written && cat {directory}/written && rm {directory}/written") == "x\n"
    assert said("rm /etc/issue; mv /usr/bin/tac /usr/bin/cat-backwards; echo 1 | cat-backwards") == "1\n"


def test_users_can_be_made_and_become(said: Said) -> None:
    said(
        "useradd --create-home ann; echo hers > /home/ann/note; chown ann:ann /home/ann/note; chmod 600 /home/ann/note"
    )
    assert said("su ann -c 'id -un; cat ~/note; touch /etc/x 2>/dev/null || echo refused'") == "ann\nhers\nrefused\n"
    assert said("stat -c '%U %a' /home/ann/note; su ann -c 'ls -d /data'") == "ann 600\n/data\n"


def test_pip_installs_what_the_function_s_own_python_imports(said: Said, tmp_path: Path) -> None:
    made = wheel(tmp_path, "tiny", "1.0", "NAME = 'tiny'")
    said("python -m pip --version && pip --version")
    said("pip install -q --no-index /root/tiny-*.whl 2>&1", **{made.name: made.read_bytes()})
    assert said("cd /; python -c 'import tiny, modal; print(tiny.NAME)'; pip uninstall -q -y tiny 2>&1") == "tiny\n"
    assert said("cd /; python -c 'import tiny' 2>/dev/null || echo gone") == "gone\n"


def test_processes_share_memory_and_semaphores(said: Said) -> None:
    made = "import multiprocessing as m; l = m.Lock(); l.acquire(); print(m.Value('i', 7).value)"
    assert said(f'python -c "{made}"') == "7\n"


def test_the_cloud_s_own_python_cannot_be_changed(said: Said) -> None:
    tries = "import modal, os; print(os.access(modal.__file__, os.W_OK)); os.unlink(modal.__file__)"
    assert said(f"cd /; python -c '{tries}' 2>&1 || true").startswith("False\n")
    assert said("cd /; python -c 'import modal; print(bool(modal.App))'") == "True\n"


@pytest.mark.skipif(ON_MODAL, reason="its machine is not to be looked at")
def test_programs_are_nobody_outside(said: Said) -> None:
    said("sleep 271829 > /dev/null 2>&1 &")
    wait_until(lambda: owners("sleep", "271829"), "the program is not seen")
    assert owners("sleep", "271829") == {ids().root}
    assert ids().root != 0


def test_what_one_container_writes_another_does_not_see(cloud: Running) -> None:
    app = modal.App(image=modal.Image.debian_slim())
    function = app.function(serialized=True, single_use_containers=True)(_shell())
    with app.run():
        assert function.remote("echo mine > /etc/own; cat /etc/own") == (0, "mine\n")
        assert function.remote("cat /etc/own 2>/dev/null || echo none") == (0, "none\n")


@pytest.mark.skipif(ON_MODAL, reason="its machine is not to be looked at")
def test_nothing_is_left_of_a_container(cloud: Running, state: State) -> None:
    live = state.root / "rootfs" / "live"
    before = set(live.iterdir())
    app = modal.App(image=modal.Image.debian_slim())
    function = app.function(serialized=True, single_use_containers=True)(_shell())
    with app.run():
        function.remote("mkdir /left; head -c 1000 /dev/zero > /left/file; chmod 000 /left")
    wait_until(lambda: set(live.iterdir()) <= before, "what the container has written is still there")


def test_mounted_files_lie_beside_those_of_the_image(cloud: Running) -> None:
    app = modal.App(image=IMAGES["files beside those of the image"]())
    function = app.function(serialized=True)(_shell())
    with app.run():
        assert function.remote("ls /opt/own") == (0, "copied.py\nmounted.py\n")
