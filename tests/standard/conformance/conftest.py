"""Where the conformance tests run: on the local cloud, or on Modal itself with WORKBENCH_TEST_MODAL=1 and a token.

WORKBENCH_TEST_MODAL=1 WORKBENCH_CONFORMANCE_REPORT=modal.json pytest tests/standard/conformance -m modal_account
WORKBENCH_CONFORMANCE_REPORT=local.json pytest tests/standard/conformance
python -m tests.standard.conformance.report local.json modal.json
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.exception import ImageBuildError

from workbench.deployment.targets import resolve

ON_MODAL = os.environ.get("WORKBENCH_TEST_MODAL") == "1"
REPORT = os.environ.get("WORKBENCH_CONFORMANCE_REPORT")
TIMEOUT_S = 120
Run = Callable[..., str]
_HERE = Path(__file__).parent
_outcomes: dict[str, str] = {}


class OnModal:
    """Modal itself, where a running local cloud is asked for: the SDK finds its token by itself."""

    def env(self) -> dict[str, str]:
        """What a command needs to reach it."""
        return {}


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The cloud under test; on Modal its token must be there."""
    if ON_MODAL:
        resolve("modal")
        yield OnModal()
    else:
        yield request.getfixturevalue("cloud")


@pytest.fixture(scope="module")
def run(app: modal.App) -> Run:
    """Runs a program in a sandbox of an image and returns what it prints; `app` is the module's own fixture."""

    def run(image: modal.Image, *command: str, workdir: str | None = None) -> str:
        sandbox = modal.Sandbox.create(app=app, image=image, timeout=TIMEOUT_S, workdir=workdir)
        try:
            process = sandbox.exec(*command)
            assert process.wait() == 0, process.stderr.read()
            return process.stdout.read()
        finally:
            sandbox.terminate()

    return run


def build_failure(app: modal.App, image: modal.Image) -> str:
    """Why an image cannot be built."""
    with pytest.raises(ImageBuildError) as caught:
        image.build(app)
    return str(caught.value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On Modal every test here needs an account, and costs money."""
    for item in items:
        if ON_MODAL and _HERE in item.path.parents:
            item.add_marker(pytest.mark.modal_account)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test ended."""
    if (
        REPORT
        and report.nodeid.startswith("tests/standard/conformance/")
        and (report.when == "call" or report.outcome != "passed")
    ):
        _outcomes[report.nodeid.removeprefix("tests/standard/conformance/")] = (
            "differs" if hasattr(report, "wasxfail") else report.outcome
        )


def pytest_sessionfinish() -> None:
    """Write down how the tests ended, for the comparison of two clouds."""
    if REPORT:
        Path(REPORT).write_text(json.dumps({"modal": ON_MODAL, "outcomes": _outcomes}, indent=1))
