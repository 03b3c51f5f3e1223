"""An engine, a workspace and a sandbox for each test; whatever a test does, nothing of it stays."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from workbench.local_cloud.process.private_mounts import take_private_mounts
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import BindMount, ExitStatus, SandboxSpec
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

DEADLINE_S = 60


@pytest.fixture(scope="session")
def without_overlay(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Why this process cannot mount overlays, "" if it can. It has mounts of its own from now on."""
    return take_private_mounts(tmp_path_factory.mktemp("maps"))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="workbench-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def engine(root: Path) -> AsyncIterator[Engine]:
    engine = Engine(root / "sandboxes")
    yield engine
    await engine.aclose()
    assert list((root / "sandboxes").iterdir()) == []


@pytest.fixture
def workspace(root: Path) -> Path:
    path = root / "workspace"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, isolation_uid(1), isolation_uid(1))
    return path


@pytest.fixture
async def sandbox(engine: Engine, workspace: Path) -> Sandbox:
    return await engine.create(spec_of(workspace))


def spec_of(workspace: Path, *, name: str = "sb-test", limits: Limits | None = None) -> SandboxSpec:
    return SandboxSpec(
        sandbox_id=name,
        uid=isolation_uid(1),
        mounts=(BindMount(workspace, "/workspace"),),
        workdir="/workspace",
        limits=limits or Limits(),
    )


async def run(
    sandbox: Sandbox, *argv: str, stdin: bytes = b"", timeout_s: float | None = None
) -> tuple[ExitStatus, str, str]:
    """Run a program to its end: how it ended, what it printed."""
    process = await sandbox.exec(argv, exec_id=os.urandom(8).hex(), timeout_s=timeout_s)
    await process.write_stdin(stdin, offset=0, eof=True)
    status = await asyncio.wait_for(process.wait(), DEADLINE_S)
    texts = []
    for spool in (process.stdout, process.stderr):
        data = b""
        while chunk := await spool.read(len(data)):
            data += chunk
        texts.append(data.decode())
    return status, texts[0], texts[1]
