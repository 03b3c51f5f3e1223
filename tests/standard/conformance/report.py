"""Compares how the tests ended on two clouds: `python -m tests.standard.conformance.report local.json modal.json`."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def compare(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, str]]:
    """Tests that did not end alike, as (test, there, here); one that is expected to differ should pass on Modal."""
    names = sorted(first.keys() | second.keys())
    rows = [(name, first.get(name, "not run"), second.get(name, "not run")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def main(paths: list[str]) -> int:
    """Print the comparison; 1 when a test that passes on one cloud fails on the other."""
    first, second = (json.loads(Path(path).read_text()) for path in paths)
    rows = compare(first["outcomes"], second["outcomes"])
    table = Table("test", *("Modal" if one["modal"] else "local cloud" for one in (first, second)), box=None)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    alike = len(first["outcomes"].keys() | second["outcomes"].keys()) - len(rows)
    Console().print(f"{alike} tests ended alike, {len(rows)} did not")
    return int(any({"passed", "failed"} == {there, here} for _, there, here in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:3]))
