"""Sandboxes run real programs, isolated, and leave nothing behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cutting_off import cut_off_at_many_moments, nothing_is_left
from tests.support.sandboxes import DEADLINE_S, run, spec_of
from workbench.local_cloud.sandboxes.engine import output_spool
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import BindMount, ExitStatus, SandboxSpec


async def test_a_program_runs_with_its_output_and_exit_code(sandbox: Sandbox) -> None:
    """The plainest promise."""
    status, out, err = await run(sandbox, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (status, out, err) == (ExitStatus(code=3), "out\n", "err\n")


async def test_a_signal_is_reported_as_one(sandbox: Sandbox) -> None:
    """A killed program must never look like one that ended by itself."""
    status, _, _ = await run(sandbox, "sh", "-c", "kill -TERM $$")
    assert status == ExitStatus(signal=int(signal.SIGTERM))


async def test_stdin_arrives_once_whatever_is_sent_again(sandbox: Sandbox) -> None:
    """The SDK writes again after a broken connection."""
    process = await sandbox.exec(["cat"], exec_id="cat")
    await process.write_stdin(b"hello ", offset=0, eof=False)
    await process.write_stdin(b"hello world", offset=0, eof=True)
    await asyncio.wait_for(process.wait(), DEADLINE_S)
    assert await process.stdout.read(0) == b"hello world"
    with pytest.raises(ValueError, match="would leave a gap"):
        await process.write_stdin(b"x", offset=99, eof=False)


async def test_a_missing_program_is_127(sandbox: Sandbox) -> None:
    """As from a shell."""
    status, _, err = await run(sandbox, "no-such-program")
    assert status == ExitStatus(code=127)
    assert "no-such-program" in err


async def test_a_job_is_not_root_and_sees_neither_host_nor_network(sandbox: Sandbox) -> None:
    """The walls: user, environment, files, network."""
    _, uid, _ = await run(sandbox, "id", "-u")
    assert uid == "1000\n"
    script = textwrap.dedent("""
        import os, socket
        print(sorted(os.listdir("/root")), os.path.exists("/etc/shadow"), os.path.exists("/work"))
        try:
            print(len(open("/proc/1/environ").read()))
        except PermissionError:
            print(0)
        try:
            socket.create_connection(("1.1.1.1", 53), 2)
        except OSError as error:
            print("no network")
        for family in (40, 38, 17):
            try:
                socket.socket(family, socket.SOCK_STREAM)
                print("open", family)
            except OSError:
                pass
        try:
            open("/usr/x", "w")
        except OSError:
            print("read-only")
    """)
    _, out, _ = await run(sandbox, "python3", "-c", script)
    assert out.splitlines() == ["[] False False", "0", "no network", "read-only"]


async def test_a_timeout_kills_what_the_program_started(sandbox: Sandbox) -> None:
    """No grandchild outlives its exec, even in a session of its own."""
    script = "setsid sleep 1000 & sleep 1000 & wait"
    status, _, _ = await run(sandbox, "bash", "-c", script, timeout_s=0.5)
    assert status == ExitStatus(signal=int(signal.SIGKILL))
    _, out, _ = await run(sandbox, "sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep || true")
    assert out == "0\n"


async def test_sync_asks_the_host_and_reports_its_answer(engine: Engine, workspace: Path) -> None:
    """`sync` is how a sandbox commits; it fails with the commit, and says why."""
    asked: list[tuple[str, str]] = []

    async def on_sync(path: str, exec_id: str) -> str:
        asked.append((path, exec_id))
        return "" if path.startswith("/workspace") else "nothing is mounted there"

    for name in ("d", "e"):
        (workspace / name).mkdir()
        (workspace / name).chmod(0o777)
    spec = SandboxSpec(sandbox_id="sb", uid=isolation_uid(1), mounts=(BindMount(workspace, "/workspace"),))
    sandbox = await engine.create(spec, on_sync=on_sync)
    assert (await run(sandbox, "sh", "-c", "sync /workspace"))[0] == ExitStatus(code=0)
    status, _, said = await run(sandbox, "sync", "/tmp")
    assert (status, said) == (ExitStatus(code=1), "sync: error syncing '/tmp': nothing is mounted there\n")
    for exec_id, argv in (
        ("first", ["sh", "-c", "sync /workspace/d; true"]),
        ("second", ["setsid", "-w", "sync", "."]),
    ):
        started = await sandbox.exec(argv, exec_id=exec_id, workdir="/workspace/e")
        assert await asyncio.wait_for(started.wait(), 60) == ExitStatus(code=0)
    assert [path for path, _ in asked] == ["/workspace", "/tmp", "/workspace/d", "/workspace/e"]
    assert [exec_id for _, exec_id in asked[2:]] == ["first", ""]  # who has left its session is nobody for certain


async def test_files_written_in_the_workspace_are_the_hosts_to_read(sandbox: Sandbox, workspace: Path) -> None:
    """The mount is the working copy."""
    await run(sandbox, "sh", "-c", "echo hi > /workspace/a")
    assert (workspace / "a").read_text() == "hi\n"


async def test_an_exec_that_could_not_be_sent_can_be_tried_again(sandbox: Sandbox) -> None:
    """A retry with the same id must not wait for a program that was never started."""
    with pytest.raises(ValueError, match="too large"):
        await sandbox.exec(["true", "x" * 300_000], exec_id="same")
    process = await sandbox.exec(["true"], exec_id="same")
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == ExitStatus(code=0)


async def test_a_guest_that_uses_up_its_processes_keeps_its_sandbox(sandbox: Sandbox) -> None:
    """Further programs fail with a reason; the ones that run go on."""
    code = (
        "import os, signal, time\n"
        "children = []\n"
        "try:\n"
        "  while True:\n"
        "    pid = os.fork()\n"
        "    if pid == 0: time.sleep(600)\n"
        "    children.append(pid)\n"
        "except BlockingIOError: print('full', flush=True)\n"
        "input()\n"
        "for pid in children: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)\n"
        "print('free', flush=True)\n"
        "input()"
    )
    greedy = await sandbox.exec(["python3", "-c", code], exec_id="greedy")
    assert await asyncio.wait_for(greedy.stdout.read(0), DEADLINE_S) == b"full\n"
    status, _, error = await run(sandbox, "true")
    assert (status, error) == (ExitStatus(code=126), "the sandbox has no room for another process\n")
    await greedy.write_stdin(b"\n", offset=0, eof=False)
    assert await asyncio.wait_for(greedy.stdout.read(5), DEADLINE_S) == b"free\n"
    assert (await run(sandbox, "true"))[0] == ExitStatus(code=0)


@pytest.mark.parametrize("after_ms", [0, 0.2, 1, 3, 8, 15, 20, 30, 45])
async def test_a_creation_that_is_cut_off_leaves_nothing(engine: Engine, workspace: Path, after_ms: float) -> None:
    """Whoever asked may leave at any moment of it; the engine's fixture checks that nothing is left."""
    creating = asyncio.ensure_future(engine.create(spec_of(workspace)))
    await asyncio.sleep(after_ms / 1000)
    creating.cancel()
    await asyncio.wait_for(asyncio.wait([creating]), DEADLINE_S)
    await asyncio.wait_for(engine.aclose(), DEADLINE_S)
    assert [one for one in psutil.Process().children() if one.name() == "bwrap" and one.status() != "zombie"] == []


async def test_silent_callers_of_sync_do_not_use_the_agent_up(engine: Engine, workspace: Path) -> None:
    """A guest may hold as many connections as it likes: the agent keeps few, and goes on."""
    spec = SandboxSpec(sandbox_id="sb-silent", uid=isolation_uid(1), mounts=(BindMount(workspace, "/workspace"),))
    sandbox = await engine.create(spec)
    code = (
        "import socket\n"
        "held = []\n"
        "for _ in range(500):\n"
        "  peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "  peer.connect('\\0workbench-sync')\n"
        "  held.append(peer)\n"
        "print(sum(peer.recv(64) == b'too many syncs at once: try again' for peer in held[16:]))"
    )
    assert await run(sandbox, "python3", "-c", code) == (ExitStatus(code=0), "484\n", "")
    assert (await run(sandbox, "sync", "/workspace"))[0] == ExitStatus(code=0)


async def test_termination_ends_everything_inside(sandbox: Sandbox) -> None:
    """Double forks and new sessions do not help."""
    await sandbox.exec(["sh", "-c", "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000"], exec_id="a")
    children = psutil.Process(sandbox.pid).children(recursive=True)
    await sandbox.terminate()
    await sandbox.terminate()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    process = sandbox.execs.find("a")
    assert process is not None
    assert process.poll() == ExitStatus(signal=9)


async def test_endless_output_waits_instead_of_filling_memory(sandbox: Sandbox) -> None:
    """A job that prints for ever is held back when nobody reads."""
    process = await sandbox.exec(["sh", "-c", "yes | head -c 100000000"], exec_id="yes")
    offset = 0
    while chunk := await asyncio.wait_for(process.stdout.read(offset), DEADLINE_S):
        offset += len(chunk)
    assert offset == 100_000_000
    assert await process.wait() == ExitStatus(code=0)


async def test_twenty_sandboxes_at_once(engine: Engine) -> None:
    """They neither block nor see one another."""
    specs = [SandboxSpec(sandbox_id=f"sb-{i}", uid=isolation_uid(i)) for i in range(20)]
    sandboxes = await asyncio.gather(*(engine.create(spec) for spec in specs))
    results = await asyncio.gather(*(run(box, "sh", "-c", f"echo {i}") for i, box in enumerate(sandboxes)))
    assert [out for _, out, _ in results] == [f"{i}\n" for i in range(20)]


STARTING = """
import asyncio, sys
from pathlib import Path
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.spec import BindMount, SandboxSpec

async def main():
    engine = Engine(Path(sys.argv[1]))
    mounts = (BindMount(Path(sys.argv[2]), "/workspace"),)
    print("on", flush=True)
    while True:
        sandbox = await engine.create(SandboxSpec(sandbox_id="x", uid=isolation_uid(1), mounts=mounts))
        await sandbox.terminate()

asyncio.run(main())
"""


def test_a_cloud_that_is_killed_while_a_sandbox_starts_leaves_none(root: Path, workspace: Path) -> None:
    """At any moment of the start: bubblewrap itself must not die of it, or process 1 would wait for it for ever."""
    chance = random.Random(3)
    for number in range(12):
        command = [sys.executable, "-c", STARTING, str(root / f"{number}"), str(workspace)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as cloud:
            assert cloud.stdout is not None
            assert cloud.stdout.readline() == b"on\n"
            time.sleep(chance.uniform(0, 0.12))
            cloud.kill()
    found = psutil.process_iter(["cmdline"])
    left = [process for process in found if str(workspace) in (process.info["cmdline"] or ())]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []


def test_a_killed_cloud_leaves_no_sandbox(root: Path) -> None:
    """The kernel closes the socket of a dead cloud; the agent ends and its whole sandbox with it."""
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from workbench.local_cloud.sandboxes.engine.engine import Engine
        from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
        from workbench.local_cloud.sandboxes.engine.spec import SandboxSpec

        async def main():
            sandbox = await Engine(Path(sys.argv[1])).create(SandboxSpec(sandbox_id="x", uid=isolation_uid(2)))
            await sandbox.exec(["sleep", "1000"], exec_id="s")
            print(sandbox.pid, flush=True)
            await asyncio.sleep(1000)

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program, str(root / "x")], stdout=subprocess.PIPE, text=True) as cloud:
        assert cloud.stdout is not None
        bwrap = psutil.Process(int(cloud.stdout.readline()))
        family = [bwrap, *bwrap.children(recursive=True)]
        cloud.kill()
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert gone


async def test_a_sandbox_whose_start_is_cut_off_leaves_nothing_whenever_that_is(
    engine: Engine, workspace: Path
) -> None:
    """Its start comes to its end first: only then is it known what there is to end."""

    async def begin() -> None:
        sandbox = await engine.create(spec_of(workspace))
        try:
            await sandbox.wait_closed()
        finally:
            await engine.discard(sandbox)

    descriptors = set(os.listdir("/proc/self/fd"))
    await cut_off_at_many_moments(begin, times=20, latest_s=0.1, seed=21)
    await nothing_is_left(str(workspace), descriptors)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("exec > >(sed s/^/j/); echo a", "ja\n", id="a filter behind the output"),
        pytest.param("exec > >(tee kept); echo a", "a\n", id="a logger"),
        pytest.param("(sleep 0.2; echo late) & echo now", "now\nlate\n", id="a line in the background"),
        pytest.param("echo a; (sleep 0.1; echo b >&2; sleep 0.1; echo c) &", "a\nc\n", id="both streams"),
    ],
)
async def test_what_a_program_has_started_prints_to_its_end(sandbox: Sandbox, script: str, expected: str) -> None:
    """A stream ends when nobody holds it any more, not when the first of its writers does."""
    status, out, _ = await run(sandbox, "bash", "-c", f"cd /tmp; {script}")
    assert (status, out) == (ExitStatus(code=0), expected)


async def test_a_server_in_the_background_goes_on_when_the_command_has_ended(sandbox: Sandbox) -> None:
    """Its pipe is emptied: a write to a closed one would kill it at its next line, a full one would hold it up."""
    serving = "(for i in $(seq 1 150); do echo $i; head -c 1000 /dev/zero; sleep 0.01; done; echo $i > /tmp/last) &"
    status, out, _ = await run(sandbox, "sh", "-c", f"{serving} echo started")
    assert status == ExitStatus(code=0)
    assert "started" in out
    waiting = "for i in $(seq 1 300); do [ -e /tmp/last ] && break; sleep 0.1; done; cat /tmp/last"
    assert await run(sandbox, "sh", "-c", waiting) == (ExitStatus(code=0), "150\n", "")


async def test_a_flood_in_the_background_does_not_keep_a_stream_open(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream belongs to its program: it ends, whatever others print."""
    monkeypatch.setattr(output_spool, "LINGER_S", 1.5)
    status, out, _ = await run(sandbox, "sh", "-c", "(sleep 0.2; exec yes) & echo $!")
    assert status == ExitStatus(code=0)
    number, _, flood = out.partition("\n")
    assert flood.startswith("y\ny\n")
    assert (await run(sandbox, "kill", "-0", number))[0] == ExitStatus(code=0)
    await run(sandbox, "kill", number)


async def test_the_port_of_its_proxy_is_free_for_a_web_function(sandbox: Sandbox) -> None:
    """The kernel chooses the one, and a cloud the other: from the same range."""
    with sandbox.take_proxy_listener() as proxy:
        port = proxy.getsockname()[1]
        with await sandbox.listen(port) as inside:
            assert inside.getsockname() == ("127.0.0.1", port)
