"""Sandboxes whose root file system is their own: their users, limits, mounts, and what starts them."""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.layers import member
from tests.support.rooted import MakeLayer, spec_on
from tests.support.sandboxes import DEADLINE_S, run
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.rootfs.ids import give_to_root_inside, ids
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root
from workbench.local_cloud.rootfs.mounting import Places
from workbench.local_cloud.rootfs.starting import command, ordered
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.isolation import FS_TOOLS, seccomp_program
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import BindMount, SandboxStartFailedError
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE, Limits

Opened = Callable[..., Root]
LIST = "root:x:0:0::/root:/bin/sh\nclaude:x:1000:1001::/home/claude:/bin/sh\n"
SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
pairs = [(b"%d" % number, b"%d-link" % number) for number in range(300)]
while os.getppid() > 1:
    for one, other in pairs:
        libc.renameat2(-100, one, -100, other, 2)
"""
CUT = "x" * (1 << 20)  # what is read of a list of users ends within the row that follows


async def test_a_user_of_the_image_has_their_ids_groups_and_home(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened
) -> None:
    groups = b"root:x:0:\nclaude:x:1001:\nbuild:x:1002:other,claude\nother:x:1003:claudette\n"
    key = await image(member("etc/passwd", LIST.encode()), member("etc/group", groups), below=(base,))
    sandbox = await engine.create(spec_on(open_root(key, base), user="claude"))
    status, out, err = await run(sandbox, "/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME; cat /proc/self/status")
    assert (status.code, out.splitlines()[:4]) == (0, ["1000", "1001", "1001 1002", "/home/claude"]), err
    capabilities = [line.split()[1] for line in out.splitlines() if line.startswith(("CapInh", "CapPrm", "CapEff"))]
    assert {int(word, 16) for word in capabilities} == {0}


@pytest.mark.parametrize(
    ("user", "row"),
    [
        ("evil", "evil:x:4294967295:4294967295::/:/bin/sh"),  # -1, which would mean no change
        ("evil", "evil:x:-1:-1::/:/bin/sh"),
        ("evil", "evil:x:65536:0::/:/bin/sh"),
        ("evil", "evil:x:0:4294967295::/:/bin/sh"),
        ("evil", "evil:x:²:²::/:/bin/sh"),
        ("evil", f"evil:x:{'9' * 5000}:0::/:/bin/sh"),
        ("evil", "evil:x:1000"),
        ("evil", "evil:x::::/:/bin/sh"),
        ("evil", f"{CUT}:x:1000:1000::/:/bin/sh\nevil:x:1000:1000::/:/bin/sh"),
        ("4294967295", "claude:x:1000:1000::/:/bin/sh"),
        ("65536", "claude:x:1000:1000::/:/bin/sh"),
        ("nobody-of-that-name", "claude:x:1000:1000::/:/bin/sh"),
    ],
)
async def test_a_user_that_there_cannot_be_is_refused(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened, user: str, row: str
) -> None:
    """Above all it is not root."""
    key = await image(member("etc/passwd", f"{row}\n".encode()), below=(base,))
    sandbox = await engine.create(spec_on(open_root(key, base), user=user))
    status, out, err = await run(sandbox, "/bin/id")
    assert (status.code, out) == (126, "")
    assert f"the image has no user {user}" in err


async def test_a_group_that_there_cannot_be_is_refused(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened
) -> None:
    key = await image(member("etc/group", b"evil:x:4294967295:\n"), below=(base,))
    for group in ("evil", "4294967295", "nothing"):
        sandbox = await engine.create(spec_on(open_root(key, base), user=f"www-data:{group}", name=f"sb-{group}"))
        status, out, err = await run(sandbox, "/bin/id")
        assert (status.code, out) == (126, ""), err
        assert f"the image has no group {group}" in err


async def test_process_1_survives_when_it_is_starved(rooted: Sandbox) -> None:
    """Root inside may lower the limits of process 1; programs cannot be started then, but the sandbox can be ended."""
    starve = (
        "import resource\n"
        "for name in ('RLIMIT_NPROC', 'RLIMIT_FSIZE', 'RLIMIT_CORE', 'RLIMIT_SIGPENDING', 'RLIMIT_NOFILE'):\n"
        "  resource.prlimit(1, getattr(resource, name), (0, 0))\n"
    )
    assert (await run(rooted, "python3", "-c", starve))[0].code == 0
    for terminal in (None, (24, 80)):
        process = await rooted.exec(["/bin/echo", "on"], exec_id=f"after-{terminal}", terminal=terminal)
        assert (await asyncio.wait_for(process.wait(), DEADLINE_S)).code == 126
    assert not rooted.closed
    await asyncio.wait_for(rooted.terminate(), DEADLINE_S)


async def test_an_image_without_a_shell_or_directories_runs_its_one_program(
    engine: Engine, image: MakeLayer, open_root: Opened
) -> None:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("busybox is not installed")
    key = await image(member("busybox", _content(found), mode=0o755))
    sandbox = await engine.create(spec_on(open_root(key)))
    assert (await run(sandbox, "/busybox", "echo", "on"))[1] == "on\n"
    assert (await run(sandbox, "/busybox", "ls", "/tmp"))[0].code != 0  # inside: there is none
    status, _, err = await run(sandbox, "/bin/sh", "-c", "true")
    assert (status.code, err) == (127, "/bin/sh: not found, or no such working directory: /\n")


async def test_a_root_of_four_hundred_layers_is_mounted(
    engine: Engine, base: str, layers: Layers, open_root: Opened
) -> None:
    keys = [f"many-{number}" for number in range(399)]
    for key in keys:
        _make_layer(layers.store / "layers" / key, key)
    try:
        sandbox = await engine.create(spec_on(open_root(*keys, base)))
        assert len((await run(sandbox, "/bin/ls", "/srv"))[1].split()) == 399
        await engine.discard(sandbox)
    finally:
        await layers.remove([f"layers/{key}" for key in keys])


async def test_the_environment_of_an_image_is_heeded_inside_alone(base: str, open_root: Opened) -> None:
    """What starts its programs begins outside, where a library that the image names would be loaded by the host."""
    env = {
        "LD_PRELOAD": "/no/such/library.so",
        "PATH": "/no/such/directory",
        "PYTHONHOME": "/no/such/home",
        "A": "é=\n",
    }
    script = 'printf \'%s|\' "$LD_PRELOAD" "$A"; exec /bin/ls /proc/self/fd'
    with ordered(
        open_root(base),
        Places(),
        ["--", "/bin/sh", "-c", script],
        env=env,
        seccomp=seccomp_program(rooted=True),
        owner=ids().root,
    ) as (order, descriptors):
        program = await Program.start(*command(order), env={}, pass_fds=descriptors, cwd="/")
        out, err = await asyncio.wait_for(asyncio.gather(program.stdout.read(), program.stderr.read()), DEADLINE_S)
        await program.aclose()
    assert out.decode() == "/no/such/library.so|é=\n|0\n1\n2\n3\n", err  # the last one is that of `ls`
    assert err.count(b"/no/such/library.so") == 2, err  # of the shell and of `ls`


async def test_a_variable_of_the_loader_does_not_keep_the_sdk_from_its_files(
    engine: Engine, base: str, open_root: Opened
) -> None:
    """They name libraries for the image's programs, which the host's Python may not be able to load."""
    env = {"LD_PRELOAD": "/no/such/library.so", "LD_LIBRARY_PATH": "/tmp", "PYTHONHOME": "/tmp", "GLIBC_TUNABLES": "x"}
    sandbox = await engine.create(spec_on(open_root(base), env=env))
    for program in ("/bin/sync", *FS_TOOLS.values()):
        _, _, err = await run(sandbox, program, "/no/such/file", timeout_s=10)
        assert "library.so" not in err.replace("ERROR: ld.so: object '/no/such/library.so' from LD_PRELOAD", "", 1)


async def test_no_library_of_an_image_is_loaded_into_process_1(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened
) -> None:
    """An image can list libraries that every program gets; its own programs do get them."""
    library = _library()
    key = await image(member("etc/ld.so.preload", f"{library}\n".encode()), below=(base,))
    sandbox = await engine.create(spec_on(open_root(key, base)))
    assert library in (await run(sandbox, "/bin/cat", "/proc/self/maps"))[1]
    (one,) = psutil.Process(sandbox.pid).children()
    found = _maps(one.pid)
    assert "libc.so.6" in found
    assert library not in found


@pytest.mark.parametrize("target", ["/proc/self/root/oldroot/tmp/made-by-a-volume", "/oldroot/tmp/made-by-a-volume"])
async def test_a_link_in_a_volume_leads_no_other_mount_out(
    engine: Engine, base: str, open_root: Opened, root: Path, workspace: Path, target: str
) -> None:
    """A volume is mounted in a volume, whose content is a guest's."""
    inner = root / "inner"
    inner.mkdir()
    (inner / "file").write_text("inner")
    (workspace / "link").symlink_to(target)
    give_to_root_inside(root / "inner")
    mounts = (BindMount(inner, "/workspace/link/deeper"),)
    spec = spec_on(open_root(base), workspace, mounts=mounts)
    if target.startswith("/proc"):
        with pytest.raises(SandboxStartFailedError, match="leads into /proc"):
            await engine.create(spec)
    else:
        sandbox = await engine.create(spec)
        assert (await run(sandbox, "/bin/cat", "/workspace/link/deeper/file"))[1] == "inner"
    assert "made-by-a-volume" not in os.listdir("/tmp")  # of the host


async def test_a_volume_in_a_volume_is_where_it_belongs(
    engine: Engine, base: str, open_root: Opened, root: Path, workspace: Path
) -> None:
    inner = root / "inner"
    inner.mkdir()
    give_to_root_inside(inner)
    spec = spec_on(open_root(base), workspace, mounts=(BindMount(inner, "/workspace/a/b"),))
    sandbox = await engine.create(spec)
    assert (await run(sandbox, "/bin/touch", "/workspace/a/b/here"))[0].code == 0
    assert (inner / "here").exists()


async def test_a_copy_of_what_a_sandbox_writes_has_nothing_of_the_host(layers: Layers, open_root: Opened) -> None:
    """While it is made, a program may put a link in the place of a directory."""
    outside = "/etc/ld.so.conf.d"  # what everyone may read, and few images have
    opened = open_root()
    for number in range(300):
        (opened.written / f"{number}").mkdir()
        (opened.written / f"{number}-link").symlink_to(outside)
    swapping = await asyncio.create_subprocess_exec(sys.executable, "-c", SWAP, str(opened.written))
    try:
        for _ in range(5):
            try:
                key = await layers.copy(opened)
            except LayerError:  # a refusal is fine
                continue
            found = list((layers.store / "layers" / key).rglob("*"))
            await layers.remove([f"layers/{key}"])
            assert not {path.name for path in found} & set(os.listdir(outside))
    finally:
        swapping.kill()
        await swapping.wait()


async def test_what_a_sandbox_writes_to_its_root_is_limited(engine: Engine, base: str, open_root: Opened) -> None:
    """Also what users other than root write where only they may read."""
    notices: list[str] = []
    limits = replace(Limits(), workspace_bytes=20 * MEBIBYTE)
    sandbox = await engine.create(spec_on(open_root(base), limits=limits), on_notice=notices.append)
    script = (
        "install -d -o www-data -m 700 /var/tmp/own; su -s /bin/sh www-data -c "
        "'for i in 1 2 3 4; do dd if=/dev/zero of=/var/tmp/own/$i bs=1M count=10; done'; sleep 60"
    )
    status, _, _ = await run(sandbox, "/bin/sh", "-c", script)
    assert status.signal == 9
    assert notices == ["the sandbox was ended: its files took more than 20 MiB of disk"]


async def test_a_directory_that_only_another_user_may_read_is_no_reason_to_end(
    engine: Engine, base: str, open_root: Opened
) -> None:
    limits = replace(Limits(), workspace_bytes=20 * MEBIBYTE)
    sandbox = await engine.create(spec_on(open_root(base), limits=limits))
    script = "install -d -o www-data -m 700 /var/tmp/own; dd if=/dev/zero of=/var/tmp/own/x bs=1M count=2; sleep 3"
    assert (await run(sandbox, "/bin/sh", "-c", script))[0].code == 0
    assert not sandbox.closed


async def test_its_shared_memory_is_limited(engine: Engine, base: str, open_root: Opened) -> None:
    sandbox = await engine.create(spec_on(open_root(base), limits=replace(Limits(), tmpfs_bytes=4 * MEBIBYTE)))
    status, _, err = await run(sandbox, "/bin/dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=8")
    assert (status.code, "No space left on device" in err) == (1, True)


async def test_its_memory_is_limited(engine: Engine, base: str, open_root: Opened) -> None:
    notices: list[str] = []
    limits = replace(Limits(), memory_bytes=80 * MEBIBYTE)
    sandbox = await engine.create(spec_on(open_root(base), limits=limits), on_notice=notices.append)
    hog = (
        "import time\nfound = []\nfor _ in range(40): found.append(b'x' * (10 << 20)); time.sleep(0.05)\ntime.sleep(60)"
    )
    status, _, _ = await run(sandbox, "python3", "-c", hog)
    assert status.signal == 9
    await asyncio.wait_for(sandbox.wait_closed(), DEADLINE_S)
    assert len(notices) == 1
    assert notices[0].endswith("it used more than 80 MiB of memory")


def _library() -> str:
    """A library of the base that Python does not load by itself."""
    return str(next(Path("/usr/lib").glob("*/libpam.so.0.*")))


def _maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


def _make_layer(directory: Path, name: str) -> None:
    (directory / "srv" / name).mkdir(parents=True)
