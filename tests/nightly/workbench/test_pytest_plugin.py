"""The pytest plugin in somebody else's project: every line of its page, and the ends that are like others."""

import signal

import pytest

from tests.standard.workbench.test_pytest_plugin import (
    COMMANDS,
    Project,
    all_ends_with_pytest,
    passes_its_tests,
    project,
)

__all__ = ["project"]
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("line", COMMANDS[1:], ids=" ".join)
def test_the_page_s_program_passes_its_tests(project: Project, line: list[str]) -> None:
    passes_its_tests(project, line)


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(signal.SIGTERM, []), (signal.SIGINT, ["-n", "1"])],
    ids=["terminated", "Ctrl-C with workers"],
)
def test_all_ends_with_pytest_however_it_ends(project: Project, number: int, arguments: list[str]) -> None:
    all_ends_with_pytest(project, number, arguments)
