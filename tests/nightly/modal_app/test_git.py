"""Write sets that git refuses: every way to have it refuse."""

import pytest

from tests.standard.modal_app.test_git import CHOSEN, REFUSED_BY_GIT, leaves_nothing_behind
from workbench import Project, Workbench


@pytest.mark.parametrize("name", [name for name in REFUSED_BY_GIT if name not in CHOSEN])
def test_a_write_set_that_git_refuses_leaves_nothing_behind(wb: Workbench, project: Project, name: str) -> None:
    leaves_nothing_behind(wb, project, name)
