"""The panel's mark says what is made to fail, by rules and by scripted answers, and ends all of it."""

from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from workbench import Workbench, connect
from workbench.deployment import model_answers
from workbench.deployment.model_answers import Model
from workbench.deployment.model_backing import scripted_model
from workbench.widgets import WorkbenchPanel
from workbench.widgets.active_rules import active_answers


@pytest.fixture
def panel(wb: Workbench) -> Iterator[WorkbenchPanel]:
    made = WorkbenchPanel(wb)
    yield made
    made.close()


@pytest.fixture
def model(wb: Workbench) -> Model:
    """The scripted model, whoever asks it."""
    return Model(lambda: scripted_model(wb.target))


def test_answers_are_told_with_how_often_they_were_asked(panel: WorkbenchPanel, model: Model) -> None:
    with model.answers("one") as one, model.answers("two") as two:
        panel.handle({"type": "look"}, ())
        wait_until(lambda: len(panel.answers) == 2, "the panel does not say it")
        assert {shown["marker"]: shown["asked"] for shown in panel.answers} == {one.marker: 0, two.marker: 0}
        assert panel.rules == []
    panel.handle({"type": "look"}, ())
    wait_until(lambda: panel.answers == [], "they are told still")


def test_the_halt_ends_rules_and_answers(panel: WorkbenchPanel, model: Model, wb: Workbench) -> None:
    wb.faults.add(at="web", app="nobody's", path="/x", delay_s=1)
    with model.answers("one") as one:
        panel.handle({"type": "look"}, ())
        wait_until(lambda: bool(panel.rules and panel.answers), "the panel does not say it")
        panel.handle({"type": "halt"}, ())
        wait_until(lambda: not panel.rules and not panel.answers, "they are in force still")
        assert wb.faults.rules() == []
        assert one.marker not in model_answers.in_force(wb.target)


def test_whoever_looks_starts_no_model(monkeypatch: pytest.MonkeyPatch, wb: Workbench) -> None:
    monkeypatch.setattr("workbench.deployment.model_backing._runs", lambda known: False)
    monkeypatch.setattr("workbench.deployment.model_backing._start", lambda *_: pytest.fail("it was started"))
    assert active_answers(wb) == []
    with connect(wb.endpoint.url) as far:
        assert active_answers(far) == []
