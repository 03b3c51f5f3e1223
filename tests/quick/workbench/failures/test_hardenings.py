"""The table of hardenings: whole, true to the code that it names, and shown where modes are shown."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.edited_endpoint import edited_endpoint
from tests.support.paths import ROOT
from tests.support.switched_off import OFF
from workbench.cli import app
from workbench.failures.catalogue import catalogue
from workbench.failures.experiments import EXPERIMENTS
from workbench.failures.hardenings import ABSENT, HARDENINGS, serving


def test_every_mode_that_can_be_shown_is_served_by_what_can_be_switched_off() -> None:
    served = {name for one in HARDENINGS.values() for name in one.serves}
    assert served <= set(catalogue())
    assert set(EXPERIMENTS) <= served | set(ABSENT)
    assert not served & set(ABSENT)
    assert set(OFF) == set(HARDENINGS)


def test_each_names_where_it_stands() -> None:
    for one in HARDENINGS.values():
        assert one.name
        assert one.says.endswith(".")
        assert one.where
        for path in one.where:
            assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", OFF)
def test_what_switches_it_off_is_still_there(tmp_path: Path, name: str) -> None:
    root = edited_endpoint(tmp_path, OFF[name])
    for file in {edited for edited, _, _ in OFF[name]}:
        compile((root / "modal_app" / file).read_text(encoding="utf-8"), file, "exec")


def test_a_mode_is_shown_with_what_keeps_it() -> None:
    names = {one.name for one in serving("missing-commit")}
    assert "end-told-last" in names
    shown = CliRunner().invoke(app, ["failures", "show", "missing-commit"]).output
    assert all(f"{name} (" in shown for name in names)
    said = json.loads(CliRunner().invoke(app, ["failures", "show", "missing-commit", "--json"]).output)
    assert set(said["hardenings"]) == names


def test_the_table_is_listed() -> None:
    listed = CliRunner().invoke(app, ["failures", "hardenings"])
    assert all(name in listed.output for name in HARDENINGS)
    rows = json.loads(CliRunner().invoke(app, ["failures", "hardenings", "--json"]).output)
    assert {row["name"]: set(row["serves"]) for row in rows} == {
        one.name: set(one.serves) for one in HARDENINGS.values()
    }


def test_the_page_has_the_table() -> None:
    page = (ROOT / ".github" / "docs" / "failures.md").read_text(encoding="utf-8")
    for one in HARDENINGS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{one.name}` |"))
        assert one.says in row
        assert set(row.rpartition(" | ")[2].strip(" |`").split("`, `")) == one.serves
