"""The files of whatever project is picked: another widget's until somebody picks one."""

from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from workbench import Project, Workbench
from workbench.widgets import Files


@pytest.fixture
def files(wb: Workbench, project: Project) -> Iterator[Files]:
    files = Files(wb, project=project, leader="Launch")
    yield files
    files.close()


def shows(files: Files, project: Project) -> bool:
    """Whether a project's browser is there."""
    view = files.view
    return view is not None and view.title == f"{project.user_id}/{project.project_id}"


def test_it_follows_another_widget_until_a_project_is_picked(files: Files, project: Project) -> None:
    wait_until(lambda: shows(files, project), "the first project was not opened")
    second, third = Project.new(), Project.new()
    files.follow(Project("half", "typed"))
    files.follow(second)
    wait_until(lambda: shows(files, second), "it did not follow")
    files._on_message(files, {"type": "pick", "user_id": project.user_id, "project_id": project.project_id}, [])
    wait_until(lambda: shows(files, project) and not files.following, "the project was not picked")
    files.follow(third)
    wait_until(lambda: files.offered[0]["project_id"] == third.project_id, "the project is not offered")
    assert shows(files, project)
    files._on_message(files, {"type": "follow"}, [])
    wait_until(lambda: shows(files, third) and files.following, "it did not follow again")
    assert third.project_id in files.still()["plain"]


def test_ids_that_are_wrong_are_told_and_change_nothing(files: Files, project: Project) -> None:
    wait_until(lambda: shows(files, project), "the first project was not opened")
    files.pick(Project(project.user_id, "mine"))
    wait_until(lambda: bool(files.errors), "the id was taken")
    assert files.errors == {"project_id": "must be a canonical lower-case UUID"}
    assert shows(files, project)
    assert files.following
