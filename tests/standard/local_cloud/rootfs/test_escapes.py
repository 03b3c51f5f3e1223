"""Every known way out is tried as root of a root file system of its own, by the cloud's user and by an ordinary one."""

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from tests.support import started_attempts
from tests.support.attempts import may_bind_scores
from tests.support.ordinary_user import run_as_ordinary_user
from tests.support.rooted_attempts import ATTEMPTS, SPARED, program
from tests.support.sandboxes import run
from workbench.local_cloud.images.plans import SCRIPT, ImageConfig, Run
from workbench.local_cloud.images.rooted_run import RunStep
from workbench.local_cloud.process.state_directory import Running
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.engine.isolation import seccomp_program
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox

IMAGES = {
    "with steps": lambda: modal.Image.debian_slim().run_commands("echo piped | cat > /piped"),
    "plain": modal.Image.debian_slim,
    "plain, with files": lambda: (
        modal.Image.debian_slim().add_local_file(__file__, "/opt/own/copied.py", copy=True).workdir("/srv/app")
    ),
}


@pytest.fixture
def host(root: Path) -> Iterator[list[str]]:
    """Things of the host that an attempt may aim at: a file, a process, a port, an abstract socket."""
    secret = root / "secret"
    secret.write_text("the host's own")
    secret.chmod(0o644)
    name = f"workbench-{secrets.token_hex(4)}"
    victim = subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        yield [str(secret), str(victim.pid), str(listener.getsockname()[1]), name]
    assert victim.poll() is None
    victim.kill()
    victim.wait(10)


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_it_holds(rooted: Sandbox, host: list[str], name: str) -> None:
    if name == SPARED and not may_bind_scores():
        pytest.skip("this user cannot say what a program may choose at least")
    status, out, err = await run(rooted, "python3", "-c", program(name), *host)
    died = status.signal is not None
    assert out.startswith("held") or (died and "ESCAPED" not in out), (status, out, err)
    assert (await run(rooted, "echo", "on"))[1] == "on\n"  # process 1 has taken no harm


@pytest.mark.timeout(300)
async def test_it_holds_in_a_run_step(layers: Layers, base: str, host: list[str]) -> None:
    """A RUN step has the same root file system, and this machine's network."""
    printed: list[str] = []
    run_step = RunStep(seccomp=seccomp_program(rooted=True), log=lambda text, fd: printed.append(text))
    script = f"#!/usr/bin/python3\n{started_attempts.program(host)}"
    step = Run((SCRIPT,), "attempts", (("PATH", "/usr/bin:/bin"),), "/", "", script)
    async with layers.root([base]) as root:
        await run_step.run(step, ImageConfig(layers=(base,)), root, {}, {})
    escaped, made = _escaped(printed)
    assert (escaped, made) == ({}, len(started_attempts.ATTEMPTS))


@pytest.mark.skipif(os.geteuid() != 0, reason="a RUN step shows it for an ordinary user")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("image", IMAGES)
def test_it_holds_in_a_function_s_container(cloud: Running, host: list[str], image: str) -> None:
    """So does a function, also one that runs while an image is built."""
    app = modal.App(image=IMAGES[image]())

    def attempts(text: str) -> list[str]:
        import subprocess

        return subprocess.run(["python3"], input=text, capture_output=True, text=True, check=True).stdout.splitlines()

    function = app.function(serialized=True, timeout=200)(attempts)
    with app.run():
        escaped, made = _escaped(function.remote(started_attempts.program(host)))
    assert (escaped, made) == ({}, len(started_attempts.ATTEMPTS))


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
def test_it_holds_for_an_ordinary_user_too() -> None:
    """The same attempts once more: root inside is that user outside then, and other rules make the sandbox."""
    tests = "tests/standard/local_cloud/rootfs/test_escapes.py"
    assert run_as_ordinary_user(tests, with_ids=True) >= len(ATTEMPTS) - 1


def _escaped(printed: list[str]) -> tuple[dict[str, object], int]:
    escaped, made = started_attempts.escaped(printed)
    return {name: how for name, how in escaped.items() if name != SPARED or may_bind_scores()}, made
