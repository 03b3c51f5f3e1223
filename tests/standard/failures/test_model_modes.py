"""The modes of the model have answers that each side has alone; the notebook `12_model_failures` shows them."""

from collections.abc import Iterator

import pytest

from tests.conftest import stop_apps
from tests.support.docs import pages
from tests.support.docs.made import DOCS
from workbench import Project, Workbench, connect
from workbench.cloud_control.controls import ControlUnavailableError
from workbench.deployment.model_backing import (
    UPSTREAM_KEY_VARIABLE,
    UPSTREAM_URL_VARIABLE,
    WITHOUT_CLAUDE_VARIABLE,
    ModelUnavailableError,
)
from workbench.failures.experiments import EXPERIMENTS, model
from workbench.failures.lab import FailureLab

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True, scope="module")
def _stopped(wb: Workbench) -> Iterator[None]:
    yield
    stop_apps("failure-lab-model")


@pytest.fixture
def lab(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> FailureLab:
    """A lab that has the Claude CLI; a model's service that is named beside it must never be asked."""
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)
    monkeypatch.setenv(UPSTREAM_KEY_VARIABLE, "sk-of-the-developer-never-used")
    monkeypatch.setenv(UPSTREAM_URL_VARIABLE, "https://models.invalid")
    return wb.failures


def test_a_fault_of_the_model_that_never_struck_makes_the_result_invalid(
    lab: FailureLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that was to break behind its end did not break: both endpoints did the job, and nothing is known."""
    whole = {"text": "one two", "fault": {"kind": "eof_mid_stream", "after_deltas": 9}}
    never = model._asked(whole, fault="eof_mid_stream", harm=model._twice, broken=())
    monkeypatch.setitem(EXPERIMENTS, "model-stream-truncated", never)
    result = lab.run("model-stream-truncated")
    assert (result.status, result.verdict, result.shown) == ("invalid", None, False)
    assert "never fired at the naive endpoint: the model's fault eof_mid_stream" in result.why


def test_the_asking_can_be_left_to_the_user(lab: FailureLab) -> None:
    with lab.provoked("model-529", Project.new()) as side:
        seen = side.ask(Project.new(), "hello")
        assert (seen.code, seen.count("retry"), bool(seen.session)) == ("model_overloaded", 2, True)
        with connect("local", app_name=side.app_name) as others, others.model.answers(_UNKNOWN, "No such.") as answers:
            run = others.launch(Project.new(), "claude", prompt=answers.prompt("hello"))
            assert run.wait(100).type == "done"  # nobody else is meant
            assert [(one.turn, one.told) for one in answers.asked] == [(0, True), (1, True)]


def test_the_code_of_the_page_says_what_the_model_answers(lab: FailureLab, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = pages.blocks(DOCS / "failures.md", "python", "claude")
    with lab.provoked("model-529", Project.new()) as side, connect("local", app_name=side.app_name) as wb:
        exec(block.text, {"wb": wb, "project": Project.new()})  # code of our own page
    assert capsys.readouterr().out.startswith("model_error 1 ")


_UNKNOWN = {"tools": [{"name": "Nope"}]}


@pytest.mark.parametrize("name", [name for name in model.MODEL if name != "stdin-left-open"])
def test_without_the_claude_cli_it_is_said_why_nothing_is_shown(wb: Workbench, name: str) -> None:
    with pytest.raises(ControlUnavailableError, match=f"'{name}' happens to jobs of the Claude CLI alone"):
        wb.failures.run(name)
    with (
        pytest.raises(ControlUnavailableError, match=WITHOUT_CLAUDE_VARIABLE),
        wb.failures.provoked(name, Project.new()),
    ):
        pass


def test_an_endpoint_that_asks_no_scripted_model_is_told_so(wb: Workbench) -> None:
    with pytest.raises(ModelUnavailableError, match="does not ask the scripted model"), wb.model.answers("x"):
        pass
    with connect(wb.endpoint.url) as far, pytest.raises(ControlUnavailableError, match="on the local cloud only"):
        _ = far.model
