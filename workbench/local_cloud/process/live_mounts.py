"""Finds the mounts of volumes in running sandboxes and function containers."""

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.volumes.history_routes import Uncommitted
from workbench.local_cloud.volumes.volume_rpc import Mounts
from workbench.local_cloud.volumes.working_copies import WorkingCopy


class LiveMounts:
    """Looks mounts up in the sandboxes and pools that it is given; has no state of its own."""

    def __init__(self, sandboxes: Sandboxes, pools: Pools) -> None:
        self._sandboxes = sandboxes
        self._pools = pools

    def of_task(self, task_id: str) -> Mounts:
        """Return what a function container has mounted; empty when it has ended or is not started yet."""
        try:
            task = self._pools.task(task_id)
        except CloudError:
            return Mounts()
        if task.container is None:
            return Mounts()
        calls = {item.call.call_id: None for item in task.inputs.values()}
        return Mounts(task.container.pid, task.container.mounts, tuple(calls))

    def writable(self, volume_id: str) -> list[tuple[str, str, WorkingCopy]]:
        """Return every writable mount of a volume, as (sandbox's or task's id, mount path, working copy)."""
        sandboxes = ((record.sandbox_id, record.mounts) for record in self._sandboxes.all() if record.result is None)
        containers = (
            (task.task_id, task.container.mounts) for task in self._pools.tasks() if task.container is not None
        )
        return [
            (holder, path, copy)
            for holder, copies in (*sandboxes, *containers)
            for path, copy in copies.items()
            if copy.volume_id == volume_id and not copy.read_only
        ]

    async def uncommitted(self, volume_id: str) -> list[Uncommitted]:
        """Return what each writable mount of a volume holds that is not committed."""
        found = []
        for holder, path, copy in self.writable(volume_id):
            try:
                pending = await copy.uncommitted()
            except CloudError:  # it has ended meanwhile
                continue
            found.append(Uncommitted(holder, path, copy.sub_path, pending.files, pending.size, pending.paths))
        return found
