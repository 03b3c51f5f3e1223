"""What every container of the endpoint shares: two dicts, three queues and a volume, by their names."""

from dataclasses import dataclass
from pathlib import Path

import modal

ARCHIVE = Path("/runs")


def traffic_name(app_name: str) -> str:
    """The name of an app's queue of traffic with the model."""
    return f"{app_name}-model-traffic"


@dataclass(frozen=True)
class SharedState:
    """`records` keeps runs, keys, leases and owners, `under_way` the runs whose archive is not written yet.

    `log` has the events of runs, `control` what containers tell each other, `traffic` what runs say with the model;
    `archive` is mounted at ARCHIVE.
    """

    records: modal.Dict
    under_way: modal.Dict
    log: modal.Queue
    control: modal.Queue
    traffic: modal.Queue
    archive: modal.Volume

    @classmethod
    def named(cls, app_name: str) -> "SharedState":
        """The state of the app with this name, made when it is not there."""
        return cls(
            modal.Dict.from_name(f"{app_name}-runs", create_if_missing=True),
            modal.Dict.from_name(f"{app_name}-runs-under-way", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-logs", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-control", create_if_missing=True),
            modal.Queue.from_name(traffic_name(app_name), create_if_missing=True),
            modal.Volume.from_name(f"{app_name}-runs", create_if_missing=True, version=2),
        )
