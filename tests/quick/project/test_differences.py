"""The document of differences is true: each row names a test that there is, and nothing is refused without a row."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TEXT = (ROOT / "workbench" / "local_cloud" / "DIFFERENCES.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| ")][
    1:
]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_names_a_test_that_there_is(row: list[str]) -> None:
    assert len(row) == 4
    path, _, name = row[3].strip(" |`").partition("::")
    assert name in names_in(ROOT / "tests" / path)


def test_every_test_of_a_difference_has_its_row() -> None:
    tests = {
        name for name in names_in(ROOT / "tests/standard/conformance/test_differences.py") if name.startswith("test_")
    }
    assert {name for name in tests if f"::{name}`" not in TEXT} == set()
    assert len({row[0] for row in ROWS}) == len(ROWS)


def test_whatever_the_code_refuses_by_name_is_in_the_document() -> None:
    refused = set()
    for path in (ROOT / "workbench" / "local_cloud").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.match(
                    r"([A-Z]\w+|[\w.]+\w)[\w ,]* (?:is|are) not (?:implemented by|available on) the local", node.value
                )
                if found:
                    refused.add(found.group(1))
    assert len(refused) >= 8
    small = {"Files", "Experimental", "Outbound", "Restricted", "Builds", "Bucket", "_experimental_encryption_key"}
    missing = {word for word in refused - small if word.removeprefix("modal.").rstrip("s").lower() not in TEXT.lower()}
    assert missing == set()
