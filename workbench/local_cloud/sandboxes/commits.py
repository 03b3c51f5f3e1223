"""Commits of what a sandbox writes: on request, by `sync`, and in the background. A forgotten one is not made up."""

import time

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.base.guest_directories import Skipped
from workbench.local_cloud.sandboxes.limits.pacing import Pacer
from workbench.local_cloud.sandboxes.sandbox_records import Record, author_of

_log = structlog.get_logger(__name__)

_TURNS = Pacer(5.0)
_LOSSES_TOLD = 10


async def commit(record: Record, path: str, *, author: str, by_sync: bool = False) -> str:
    """Commit the mounts at, above or below a path; returns what was left out and why, an empty text when nothing was.

    `sync` commits volumes of version 2 only: with version 1 it does nothing, and says so no more than on Modal.
    """
    losses: list[Skipped] = []
    for target, copy in record.mounts.items():
        if by_sync and copy.version == api_pb2.VOLUME_FS_VERSION_V1:
            continue
        meant = path == "/" or (path + "/").startswith(target + "/") or target.startswith(path.rstrip("/") + "/")
        if meant:
            losses += [skipped for skipped in (await copy.commit(author)).skipped if skipped.is_loss]
    if losses:
        told = [str(loss) for loss in losses[:_LOSSES_TOLD]]
        _log.warning("sandbox.commit_incomplete", sandbox_id=record.sandbox_id, losses=len(losses), first=told)
        return f"{len(losses)} left out: {'; '.join(told)}"
    return ""


async def commit_in_background(record: Record, clock: Clock) -> None:
    """Commit every few seconds until the sandbox ends; the final commit is not ours."""
    pause_s = _TURNS.every_s
    with _TURNS.taking_part():
        while record.ending is None:
            await clock.sleep(pause_s)
            if record.ending is None:
                started = time.monotonic()
                try:
                    await commit(record, "/", author=f"{author_of(record)} (background)")
                except CloudError as error:  # the next one, or the final one, takes what this one did not
                    _log.warning("sandbox.commit_failed", sandbox_id=record.sandbox_id, error=error.message)
                pause_s = _TURNS.pause_s(time.monotonic() - started)
