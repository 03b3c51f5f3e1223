"""The choice of a project in a page: projects that were used before, and checks of ids that are typed."""

from collections.abc import Iterable
from typing import TypedDict

from workbench.runs.project import Project
from workbench.session import Workbench

OFFERED_RUNS = 60  # archived runs whose projects are offered


class Ids(TypedDict):
    """The ids of a project, as JSON for a page."""

    user_id: str
    project_id: str


def used_before(workbench: Workbench) -> list[Project]:
    """The projects of the newest archived runs; empty when archives cannot be read, since ids can also be typed."""
    try:
        runs = workbench.runs.list(limit=OFFERED_RUNS)
    except Exception:  # noqa: BLE001  # the widget that shows archives tells why they cannot be read
        return []
    return [Project(run.bundle.user_id, run.bundle.project_id) for run in runs if run.bundle is not None]


def ids(project: Project) -> Ids:
    """The ids of a project, for a page."""
    return Ids(user_id=project.user_id, project_id=project.project_id)


def offered(projects: Iterable[Project]) -> list[Ids]:
    """The ids of the projects in their order, without duplicates."""
    return [ids(project) for project in dict.fromkeys(projects)]
