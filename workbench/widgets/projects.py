"""Projects as pages pick them: those that were worked on before, and what is wrong with ids that are typed."""

from collections.abc import Iterable
from typing import TypedDict

from workbench.runs.project import Project
from workbench.session import Workbench

OFFERED_RUNS = 60  # archived runs whose projects are offered


class Ids(TypedDict):
    """A project, for a page."""

    user_id: str
    project_id: str


def used_before(workbench: Workbench) -> list[Project]:
    """The projects of the newest archived runs; none when archives cannot be read, for ids can be typed."""
    try:
        runs = workbench.runs.list(limit=OFFERED_RUNS)
    except Exception:  # noqa: BLE001  # why archives cannot be read is told where they are shown
        return []
    return [Project(run.bundle.user_id, run.bundle.project_id) for run in runs if run.bundle is not None]


def ids(project: Project) -> Ids:
    """A project's ids."""
    return Ids(user_id=project.user_id, project_id=project.project_id)


def offered(projects: Iterable[Project]) -> list[Ids]:
    """Each project once, in this order."""
    return [ids(project) for project in dict.fromkeys(projects)]
