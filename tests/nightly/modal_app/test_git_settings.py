"""A repository's own settings change nothing: every kind of them."""

from typing import Any

import pytest

from tests.standard.modal_app.test_git_settings import CHOSEN, SETTINGS, change_nothing, plain
from workbench import Project, Workbench

__all__ = ["plain"]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in CHOSEN])
def test_settings_change_nothing(wb: Workbench, project: Project, plain: list[Any], name: str) -> None:
    change_nothing(wb, project, plain, name)
