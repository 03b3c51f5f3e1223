"""Commits of what a sandbox writes into its volumes: on request, by `sync`, and every few seconds in the background."""

import time

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.base.guest_directories import Skipped
from workbench.local_cloud.sandboxes.limits.pacing import Pacer
from workbench.local_cloud.sandboxes.sandbox_records import Record, author_of

_log = structlog.get_logger(__name__)

_PACER = Pacer(5.0)
_LOSSES_NAMED = 10  # in a log event or an answer


async def commit(record: Record, path: str, *, author: str, by_sync: bool = False) -> str:
    """Commit the mounts at, above or below a path; returns which files were left out and why, "" for none.

    `by_sync` says that a `sync` asked for it, which commits volumes of version 2 only and silently skips others, as on
    Modal. Raises CloudError as `WorkingCopy.commit` does, once all mounts have had their turn.
    """
    losses: list[Skipped] = []
    failures: list[Exception] = []
    for target, copy in record.mounts.items():
        if by_sync and copy.version == api_pb2.VOLUME_FS_VERSION_V1:
            continue
        concerned = path == "/" or (path + "/").startswith(target + "/") or target.startswith(path.rstrip("/") + "/")
        if concerned:
            try:
                losses += [skipped for skipped in (await copy.commit(author)).skipped if skipped.is_loss]
            except Exception as error:  # noqa: BLE001  # raised below: one mount does not keep the others from it
                failures.append(error)
    named = [str(loss) for loss in losses[:_LOSSES_NAMED]]
    if losses:
        _log.warning("sandbox.commit_incomplete", sandbox_id=record.sandbox_id, losses=len(losses), first=named)
    if failures:
        raise failures[0]
    return f"{len(losses)} left out: {'; '.join(named)}" if losses else ""


async def commit_in_background(record: Record, clock: Clock) -> None:
    """Commit all mounts every few seconds until the sandbox begins to end. The final commit is made elsewhere."""
    pause_s = _PACER.every_s
    with _PACER.participant():
        while record.ending is None:
            await clock.sleep(pause_s)
            if record.ending is None:
                started = time.monotonic()
                try:
                    await commit(record, "/", author=f"{author_of(record)} (background)")
                except CloudError as error:  # the next commit, or the final one, has the same changes
                    _log.warning("sandbox.commit_failed", sandbox_id=record.sandbox_id, error=error.message)
                except Exception as error:  # noqa: BLE001  # a full disk, say: the next commit tries again
                    _log.error("sandbox.commit_failed", sandbox_id=record.sandbox_id, exc_info=error)
                pause_s = _PACER.pause_s(time.monotonic() - started)
