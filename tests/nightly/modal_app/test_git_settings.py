"""A repository's own settings change nothing: every kind of them, and of every make."""

from typing import Any

import pytest

from tests.standard.modal_app.test_git_settings import (
    CHOSEN,
    MAKES,
    SETTINGS,
    are_told_as_text,
    change_nothing,
    is_worked_with,
    plain,
)
from workbench import Project, Workbench

__all__ = ["plain"]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in CHOSEN])
def test_settings_change_nothing(wb: Workbench, project: Project, plain: list[Any], name: str) -> None:
    change_nothing(wb, project, plain, name)


@pytest.mark.parametrize("make", MAKES)
def test_a_repository_of_another_make_is_worked_with(wb: Workbench, project: Project, make: str) -> None:
    is_worked_with(wb, project, make)


def test_commits_in_an_encoding_that_there_is_not_are_told_as_text(wb: Workbench, project: Project) -> None:
    are_told_as_text(wb, project, "no-such-encoding")
