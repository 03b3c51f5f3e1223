"""The rows of the table of faults that are not tested before a commit, through the endpoint and the gateway."""

from collections.abc import Mapping

import pytest

from tests.standard.claude.endpoint.test_claude_faults import CHOSEN, OF_THE_MODEL, check, ended
from tests.support.claude.endpoint import Claude
from workbench import Run

OTHERS = [name for name in OF_THE_MODEL if name not in CHOSEN]
pytestmark = pytest.mark.timeout(400)  # the first test waits for the image and all jobs


@pytest.fixture(scope="module")
def ends(claude: Claude) -> Mapping[str, Run]:
    """Every job, ended."""
    return ended(claude, OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_job_ends_as_it_must_whatever_the_model_does(name: str, ends: Mapping[str, Run]) -> None:
    check(name, ends[name])
