"""The suite's rows and its report: what is compared, and what is told of it. Nothing here runs on a cloud."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import cli
from tests.support.paths import ROOT
from workbench.parity import observing
from workbench.parity.catalogue import AREAS, ParityError, Row, catalogue, cost
from workbench.parity.observing import Observation, observe
from workbench.parity.report import Compared, Report
from workbench.parity.suite import chosen

LIST = (ROOT / "workbench/local_cloud/DIFFERENCES.md").read_text()
DIFFERENCES = {line.split(" | ")[0].strip("| ") for line in LIST.splitlines() if line.startswith("| ")}


@pytest.fixture(scope="module")
def rows() -> tuple[Row, ...]:
    return catalogue()


def row(**fields: Any) -> Row:
    return Row(
        **{
            "area": "functions",
            "name": "one",
            "behaviour": "It does.",
            "source": "guide/apps",
            "expects": 1,
            "differs": "",
            "seconds": 5,
            **fields,
        }
    )


def compared(first: Any, second: Any, **fields: Any) -> Compared:
    sides = [one if isinstance(one, Observation) else Observation(seen=one) for one in (first, second)]
    return Compared(row=row(**fields), first=sides[0], second=sides[1])


def report(*rows: Compared) -> Report:
    return Report(first="local cloud", second="Modal", rows=rows, took_s=1)


def test_every_area_has_rows_with_a_behaviour_and_a_page(rows: tuple[Row, ...]) -> None:
    assert {one.area for one in rows} == set(AREAS)
    assert len({one.key for one in rows}) == len(rows) >= 130
    for one in rows:
        assert re.match(r"[A-Z`]", one.behaviour), one
        assert one.behaviour.endswith("."), one
        assert re.fullmatch(r"(guide|reference)/[\w.-]+", one.source), one
        assert 1 <= one.seconds <= 300
        assert not one.differs or one.differs in DIFFERENCES, one
    assert sum(one.documented for one in rows) > 0.9 * len(rows)


def test_what_it_may_cost_is_said_with_numbers(rows: tuple[Row, ...]) -> None:
    told = cost(rows)
    assert f"{len(rows)} rows of {len(AREAS)} areas" in told
    assert f"{sum(one.seconds for one in rows) / 60:.0f} minutes at most" in told
    assert "2 rows of 1 areas" in cost(rows[:2])


def test_rows_are_chosen_by_area_and_name() -> None:
    assert {one.area for one in chosen(["objects", "web"])} == {"objects", "web"}
    assert [one.key for one in chosen(names=["web/websockets"])] == ["web/websockets"]
    assert len({one.area for one in chosen(names=["sandboxes/entrypoints", "images/entrypoints"])}) == 2
    both = [one.key for one in chosen(["web"], ["images/variables"])]
    assert (both[0].partition("/")[0], both[-1]) == ("web", "images/variables")
    for wrong in ({"areas": ["clouds"]}, {"names": ["web/none"]}, {"areas": ["web"], "names": ["none"]}):
        with pytest.raises(ParityError, match=r"there is no (area|row) '"):
            chosen(**wrong)


@pytest.mark.parametrize(
    ("one", "verdict", "alike"),
    [
        (compared(1, 1), "equal", True),
        (compared([1, "a"], [1, "a"]), "equal", True),
        (compared(1, 2), "different", False),
        (compared(1, True), "different", False),
        (compared([1.0], [1]), "different", False),
        (compared(1, "1"), "different", False),
        (compared(1, 2, differs="Kernel"), "known", True),
        (compared(1, 1, differs="Kernel"), "equal", True),
        (compared(1, Observation(missing="it did not end within 5 s")), "not run", False),
        (compared(Observation(missing="no token"), Observation(missing="no token")), "not run", False),
    ],
)
def test_a_row_s_verdict(one: Compared, verdict: str, alike: bool) -> None:
    assert (one.verdict, report(one).alike) == (verdict, alike)


def test_an_expectation_is_held_against_each_target() -> None:
    one = compared(1, 2)
    assert (one.as_documented(one.first), one.as_documented(one.second)) == (True, False)
    assert one.as_documented(Observation(missing="away")) is None
    open_one = compared(1, 2, expects="(not documented)")
    assert open_one.as_documented(open_one.first) is None
    assert "1 of 1 rows" in dict(report(one, open_one).facts())["as documented, local cloud"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


HOSTILE = "<script>alert(1)</script>\x1b[31m'\"&\u202e"


def test_a_page_shows_what_was_seen_as_text() -> None:
    page = report(compared(HOSTILE, {"says": HOSTILE}, behaviour=HOSTILE, differs=HOSTILE, source="a'b")).page()
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    for row_of_cells in report(compared(HOSTILE, Observation(missing=HOSTILE))).cells():
        assert all(cell.isprintable() for cell in row_of_cells)


def test_the_json_has_the_verdicts() -> None:
    found = json.loads(report(compared(1, 2), compared(1, 1)).model_dump_json())
    assert [one["verdict"] for one in found["rows"]] == ["different", "equal"]
    assert found["alike"] is False
    assert found["rows"][0]["row"]["behaviour"] == "It does."


def without_token(tmp_path: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return {**env, "MODAL_CONFIG_PATH": str(tmp_path / "none.toml")}


def test_a_program_that_does_not_run_is_told_for_each_of_its_rows(tmp_path: Path) -> None:
    wanted = chosen(["objects"])[:2]
    told: list[str] = []
    found = observe(wanted, without_token(tmp_path), on_row=lambda one, seen: told.append(one.key))
    assert set(found) == {one.key for one in wanted} == set(told)
    assert all("the program did not run: AuthError" in one.missing for one in found.values())


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(area: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no such luck')"]

    monkeypatch.setattr(observing, "command", dies)
    found = observe([row(), row(name="two")], dict(os.environ))
    assert [one.missing for one in found.values()] == ["its process ended: no such luck"] * 2


HANGS = """
import json, sys, time
for name in sys.argv[2:]:
    print(json.dumps({"begins": name}), flush=True)
    time.sleep(60 if name == "hangs" else 0)
    print(json.dumps({"row": name, "seen": name, "took_s": 0.1}), flush=True)
"""


def test_a_row_that_hangs_is_given_up_and_those_after_it_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "command", lambda area, *names: [sys.executable, "-c", HANGS, area, *names])
    wanted = [row(name=name, seconds=1) for name in ("first", "hangs", "after", "last")]
    found = observe(wanted, dict(os.environ))
    assert {key.partition("/")[2]: one.seen or one.missing for key, one in found.items()} == {
        "first": "first",
        "hangs": "it did not end within 1 s",
        "after": "after",
        "last": "last",
    }


def test_modal_without_a_token_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "parity", "--target", "modal", "--area", "objects"],
        env=without_token(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "modal token new" in done.stderr or "modal setup" in done.stderr
    assert "objects/" not in done.stderr


@pytest.mark.parametrize("wrong", [["--area", "clouds"], ["--row", "web/none"], ["--row", "none"]], ids=" ".join)
def test_a_row_that_there_is_not_is_told_by_the_command(wrong: list[str]) -> None:
    done = cli("parity", *wrong)
    assert done.returncode == 3
    assert f"there is no {wrong[0][2:]} '{wrong[1]}'" in done.stderr


def test_the_rows_are_listed() -> None:
    listed = cli("parity", "--list", "--area", "web", "--json")
    assert listed.returncode == 0, listed.stderr
    names = [json.loads(line)["name"] for line in listed.stdout.splitlines()]
    assert "websockets" in names
    assert all(f"web/{name}" in cli("parity", "--list", "--area", "web").stdout for name in names[:2])
