"""The comparison of two clouds shows what did not end alike."""

import json
from pathlib import Path

import pytest

from tests.standard.conformance.report import compare, main


def test_only_what_differs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = {"test_a.py::test_same": "passed", "test_a.py::test_root": "differs", "test_a.py::test_new": "passed"}
    there = {"test_a.py::test_same": "passed", "test_a.py::test_root": "passed"}
    assert compare(local, there) == [
        ("test_a.py::test_new", "passed", "not run"),
        ("test_a.py::test_root", "differs", "passed"),
    ]
    for name, outcomes in (("local", local), ("modal", there)):
        (tmp_path / name).write_text(json.dumps({"modal": name == "modal", "outcomes": outcomes}))
    assert main([str(tmp_path / "local"), str(tmp_path / "modal")]) == 0
    assert "1 tests ended alike, 2 did not" in capsys.readouterr().out
    (tmp_path / "modal").write_text(json.dumps({"modal": True, "outcomes": {"test_a.py::test_same": "failed"}}))
    assert main([str(tmp_path / "local"), str(tmp_path / "modal")]) == 1
