"""What every container of the endpoint shares: two dicts, two queues and a volume, by their names."""

from dataclasses import dataclass
from pathlib import Path

import modal

ARCHIVE = Path("/runs")


@dataclass(frozen=True)
class SharedState:
    """`records` keeps runs, keys, leases and owners, `under_way` the runs whose archive is not written yet.

    `log` has the events of runs, `control` what containers tell each other; `archive` is mounted at ARCHIVE.
    """

    records: modal.Dict
    under_way: modal.Dict
    log: modal.Queue
    control: modal.Queue
    archive: modal.Volume

    @classmethod
    def named(cls, app_name: str) -> "SharedState":
        """The state of the app with this name, made when it is not there."""
        return cls(
            modal.Dict.from_name(f"{app_name}-runs", create_if_missing=True),
            modal.Dict.from_name(f"{app_name}-runs-under-way", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-logs", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-control", create_if_missing=True),
            modal.Volume.from_name(f"{app_name}-runs", create_if_missing=True, version=2),
        )
