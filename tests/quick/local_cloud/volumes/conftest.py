"""A volume service on a temporary directory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes import overlay_mounts
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.scan import ScanLimits
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy

VOLUME = "vo-test"
LIMITS = ScanLimits(max_entries=1000, max_file_bytes=64 * 1024**2)


@dataclass
class Service:
    """Everything that mounts need, and what is mounted."""

    root: Path
    database: Database
    content: ContentStore
    committed: CommittedVolumes
    copies: WorkingCopies

    async def mount(
        self, *, sub_path: str | None = None, read_only: bool = False, owner_uid: int | None = None
    ) -> WorkingCopy:
        return await self.copies.mount(VOLUME, sub_path=sub_path, read_only=read_only, owner_uid=owner_uid)

    def read(self, path: str) -> bytes | None:
        """A committed file's bytes."""
        entry = self.committed.entry(VOLUME, path)
        if entry is None:
            return None
        with self.content.open(entry.sha256) as file:
            return file.read()

    def paths(self) -> list[str]:
        return [entry.path for entry in self.committed.below(VOLUME, "")]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "state.db")
    yield database
    database.close()


@pytest.fixture(params=["copied", "overlay"])
def overlay(request: pytest.FixtureRequest, without_overlay: str, tmp_path: Path) -> bool:
    """Both ways in which a mount's directory is made; what a job sees is the same."""
    if request.param == "overlay" and (why := without_overlay or overlay_mounts.why_unusable(tmp_path)):
        pytest.skip(why)
    return bool(request.param == "overlay")


@pytest.fixture
async def service(tmp_path: Path, database: Database, overlay: bool) -> AsyncIterator[Service]:
    content = ContentStore(tmp_path / "content")
    committed = CommittedVolumes(database)
    committed.create(VOLUME, version=2)
    service = Service(
        tmp_path,
        database,
        content,
        committed,
        WorkingCopies(tmp_path / "copies", committed, content, limits=LIMITS, overlay=overlay),
    )
    async with asyncio.timeout(60):
        yield service
    service.copies.reap()
    service.copies.close()
    content.close()
    assert list((tmp_path / "content" / "tmp").iterdir()) == []
