"""What is made to fail on the local cloud, as a page shows it so that nobody forgets it: rules and scripted answers."""

from contextlib import suppress
from typing import TypedDict

from workbench.deployment import model_answers
from workbench.deployment.model_backing import ModelUnavailableError
from workbench.session import Workbench
from workbench.text.plain_text import one_line


class ShownRule(TypedDict):
    """A rule in words, how many calls it has matched, and into how many of them it has injected its fault."""

    rule_id: str
    text: str
    matched: int
    injected: int


def active_rules(workbench: Workbench) -> list[ShownRule]:
    """The rules in force, oldest first; none on a target that cannot be made to fail. Raises ControlError."""
    if workbench.target.kind != "local":
        return []
    return [
        ShownRule(
            rule_id=one.rule_id,
            text=one_line(str(one.rule), 300),
            matched=one.matched,
            injected=one.injected,
        )
        for one in workbench.faults.rules()
    ]


class ShownAnswers(TypedDict):
    """Answers that the scripted model gives to prompts with a marker, and how often it was asked."""

    marker: str
    asked: int


def active_answers(workbench: Workbench) -> list[ShownAnswers]:
    """The scripted answers in force; none where no scripted model runs, or it does not answer."""
    if workbench.target.kind != "local":
        return []
    try:
        found = model_answers.in_force(workbench.target)
    except ModelUnavailableError:  # it ends, and its answers with it
        return []
    return [ShownAnswers(marker=marker, asked=asked) for marker, asked in found.items()]


def halt(workbench: Workbench) -> None:
    """Remove every rule and end all scripted answers, whoever has made them. Raises ControlError."""
    workbench.faults.clear()
    with suppress(ModelUnavailableError):
        model_answers.end_all(workbench.target)
