"""A notebook's parameter on the command line is what was given: JSON where it is that, and text else."""

from typing import Any

import pytest

from workbench.cli.notebooks_command import _parameter


@pytest.mark.parametrize(
    "given", ["12e4567", "1e400", "3E5", "-1.5e+3", "007", "NaN", "-Infinity", "a=b", "", "e5", "[12e4567]"]
)
def test_what_only_looks_like_a_number_stays_text(given: str) -> None:
    assert _parameter(f"id={given}") == ("id", given)


@pytest.mark.parametrize(
    ("given", "value"), [("1", 1), ("1.50", 1.5), ("true", True), ('["a"]', ["a"]), ('"12e4"', "12e4"), ("null", None)]
)
def test_json_is_json(given: str, value: Any) -> None:
    assert _parameter(f"id={given}") == ("id", value)
