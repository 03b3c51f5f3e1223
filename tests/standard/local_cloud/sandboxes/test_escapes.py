"""Every known way out is tried, from inside, as the user the tests run as and, for root, as an ordinary user, too.

The table is that of the study behind the isolation's rules, with the two that did not hold there.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.attempts import ATTEMPTS, program
from tests.support.ordinary_user import run_as_ordinary_user
from tests.support.sandboxes import DEADLINE_S, run, spec_of
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import ExitStatus


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
async def test_it_holds(sandbox: Sandbox, host: list[str], name: str) -> None:
    status, out, err = await run(sandbox, "python3", "-c", program(name), *host)
    died = status.signal is not None
    assert out.startswith("held") or (died and "ESCAPED" not in out), (status, out, err)
    assert (await run(sandbox, "echo", "on"))[1] == "on\n"  # process 1 has taken no harm


@pytest.mark.parametrize(
    "name",
    ["read a file of the host by its path", "reach the host's loopback", "reach an abstract socket of the host"],
)
def test_an_attempt_can_tell_when_it_succeeds(host: list[str], name: str) -> None:
    """Outside of a sandbox these succeed: a check that cannot fail would prove nothing."""
    command = [sys.executable, "-c", program(name), *host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "ESCAPED" in done.stdout, done


async def test_one_sandbox_does_not_reach_another(engine: Engine, workspace: Path) -> None:
    """Neither its loopback nor its processes."""
    one = await engine.create(spec_of(workspace, name="sb-one"))
    other = await engine.create(spec_of(workspace, name="sb-other"))
    serve = (
        "import socket\nwith socket.create_server(('127.0.0.1', 4321)) as server:\n"
        "  print('on', flush=True); server.accept()"
    )
    serving = await one.exec(["python3", "-c", serve], exec_id="serving")
    assert await asyncio.wait_for(serving.stdout.read(0), DEADLINE_S) == b"on\n"
    connect = "import socket; socket.create_connection(('127.0.0.1', 4321), timeout=5)"
    status, _, err = await run(other, "python3", "-c", connect)
    assert (status, "ConnectionRefusedError" in err) == (ExitStatus(code=1), True)
    assert (await run(one, "python3", "-c", connect))[0] == ExitStatus(code=0)


async def test_a_job_that_detaches_itself_ends_with_its_sandbox(sandbox: Sandbox) -> None:
    """New sessions, double forks and ignored signals do not help."""
    code = (
        "import os, signal, time\n"
        "for number in range(1, 32):\n"
        "  try: signal.signal(number, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  if os.fork() == 0:\n"
        "    os.close(0); os.close(1); os.close(2); time.sleep(600)\n"
        "  os._exit(0)\n"
    )
    assert (await run(sandbox, "python3", "-c", code))[0] == ExitStatus(code=0)
    assert len(_family(sandbox)) >= 2
    family = _family(sandbox)
    await sandbox.terminate()
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 30)
    assert alive == []


async def test_a_fork_bomb_is_capped_and_ends_with_its_sandbox(sandbox: Sandbox) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    process = await sandbox.exec(["python3", "-c", bomb], exec_id="bomb")
    for _ in range(1000):
        if len(_family(sandbox)) > 100:
            break
        await asyncio.sleep(0.01)
    family = _family(sandbox)
    assert 100 < len(family) < 600
    await asyncio.wait_for(sandbox.terminate(), DEADLINE_S)
    assert (await process.wait()).signal == 9
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 30)
    assert alive == []


@pytest.mark.parametrize("target", ["/tmp", "/dev/shm", "/root"])
async def test_memory_that_looks_like_a_disk_is_capped(sandbox: Sandbox, target: str) -> None:
    fill = f"f = open('{target}/fill', 'wb')\nfor _ in range(2000): f.write(bytes(1 << 20))"
    status, _, err = await run(sandbox, "python3", "-c", fill)
    assert status.code != 0 or status.signal
    assert "No space left" in err or status.signal == 9
    assert (await run(sandbox, "rm", "-f", f"{target}/fill"))[0] == ExitStatus(code=0)


def _family(sandbox: Sandbox) -> list[psutil.Process]:
    try:
        return psutil.Process(sandbox.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
def test_it_holds_for_an_ordinary_user_too() -> None:
    """The same attempts once more, without root's powers on the host's side: other rules make the sandbox then."""
    assert run_as_ordinary_user("tests/standard/local_cloud/sandboxes/test_escapes.py") >= len(ATTEMPTS)
