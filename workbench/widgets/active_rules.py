"""The fault rules that are in force on the local cloud, as a page shows them: so that nobody forgets one."""

from typing import TypedDict

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
