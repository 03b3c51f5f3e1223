"""The state that all containers of an endpoint share: two Modal dicts, three queues and a volume, named for the app."""

from dataclasses import dataclass
from pathlib import Path

import modal

ARCHIVE = Path("/runs")


def traffic_name(app_name: str) -> str:
    """The name of the queue that holds what an app's runs exchange with the model."""
    return f"{app_name}-model-traffic"


@dataclass(frozen=True)
class SharedState:
    """The endpoint's shared state; the page in `modal_app.runs` says who may write what.

    `records` holds runs, idempotency keys, leases, breakers and owners; `under_way` the ids of runs whose archive is
    not written yet. `log` holds the events of runs, `control` the messages to owners, `traffic` the exchanges with the
    model. `archive` is the volume that is mounted at ARCHIVE.
    """

    records: modal.Dict
    under_way: modal.Dict
    log: modal.Queue
    control: modal.Queue
    traffic: modal.Queue
    archive: modal.Volume

    @classmethod
    def named(cls, app_name: str) -> "SharedState":
        """The state of the app with this name; what is missing of it is created."""
        return cls(
            modal.Dict.from_name(f"{app_name}-runs", create_if_missing=True),
            modal.Dict.from_name(f"{app_name}-runs-under-way", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-logs", create_if_missing=True),
            modal.Queue.from_name(f"{app_name}-run-control", create_if_missing=True),
            modal.Queue.from_name(traffic_name(app_name), create_if_missing=True),
            modal.Volume.from_name(f"{app_name}-runs", create_if_missing=True, version=2),
        )
