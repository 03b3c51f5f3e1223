"""Who has which volumes mounted right now: the running sandboxes and function containers."""

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.volumes.history_routes import Uncommitted
from workbench.local_cloud.volumes.volume_rpc import Mounts
from workbench.local_cloud.volumes.working_copies import WorkingCopy


class LiveMounts:
    """Looks at what runs; keeps nothing."""

    def __init__(self, sandboxes: Sandboxes, pools: Pools) -> None:
        self._sandboxes = sandboxes
        self._pools = pools

    def of_task(self, task_id: str) -> Mounts:
        """What a function container has mounted; nothing of one that is gone."""
        try:
            task = self._pools.task(task_id)
        except CloudError:
            return Mounts()
        if task.container is None:
            return Mounts()
        calls = {item.call.call_id: None for item in task.inputs.values()}
        return Mounts(task.container.pid, task.container.mounts, tuple(calls))

    def writable(self, volume_id: str) -> list[tuple[str, str, WorkingCopy]]:
        """Every live mount of a volume that can be written, with who has it and where."""
        sandboxes = ((one.sandbox_id, one.mounts) for one in self._sandboxes.all() if one.result is None)
        containers = ((one.task_id, one.container.mounts) for one in self._pools.tasks() if one.container is not None)
        return [
            (holder, path, copy)
            for holder, copies in (*sandboxes, *containers)
            for path, copy in copies.items()
            if copy.volume_id == volume_id and not copy.read_only
        ]

    async def uncommitted(self, volume_id: str) -> list[Uncommitted]:
        """What every live mount of a volume holds that is not committed."""
        found = []
        for holder, path, copy in self.writable(volume_id):
            try:
                pending = await copy.uncommitted()
            except CloudError:  # it has ended meanwhile
                continue
            found.append(Uncommitted(holder, path, copy.sub_path, pending.files, pending.size, pending.paths))
        return found
