"""The choice of a project in a page: by a name of one's own, among those used before, or by ids that are typed."""

from collections.abc import Iterable
from typing import TypedDict

from workbench.runs.labels import Labels, LabelsUnreadableError
from workbench.runs.project import Project
from workbench.session import Workbench

OFFERED_RUNS = 60  # archived runs whose projects are offered


class Ids(TypedDict):
    """The ids of a project, as JSON for a page."""

    user_id: str
    project_id: str


class Offered(Ids):
    """A project that can be chosen, and what it is called; an empty name for one without."""

    name: str


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


def offered(projects: Iterable[Project], labels: Labels) -> list[Offered]:
    """The projects that have a name, and then the others in their order, without duplicates."""
    try:
        names = {project: name for name, project in labels.projects().items()}
    except LabelsUnreadableError:
        names = {}  # whoever gives a name is told why it cannot be kept
    return [Offered(**ids(one), name=names.get(one, "")) for one in dict.fromkeys([*names, *projects])]


def called(name: str, now: Project, labels: Labels) -> Project:
    """The project that is meant by a name which was typed where the project `now` is shown.

    It is the one of this name, where there is one. A new name is given to `now`, or where that has a name already, to a
    project that nobody has used. Raises as `Labels` does.
    """
    known = labels.projects()
    if name.strip() in known:
        return known[name.strip()]
    project = Project.new() if now in known.values() else now
    labels.name_project(name, project)
    return project
