"""The suite on real clouds: rows of each area on two local ones; and on Modal itself, for whoever has an account."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import modal
import pytest

from tests.support.commands import cli
from workbench.local_cloud.process.state_directory import Running
from workbench.parity.catalogue import Row
from workbench.parity.observing import Observation, observe
from workbench.parity.suite import chosen

# Of most areas what tells most; `tests/nightly` has more rows. What those show is held in `conformance`, too.
SOME = (
    "functions/retries-call-again",
    "web/streams-arrive-as-sent",
    "sandboxes/standard-input",
    "volumes/reloads-with-open-files",
    "images/images-by-id",
    "lookups/a-missing-volume",
)


@pytest.mark.timeout(400)
def test_two_local_clouds_of_different_settings_show_the_same(tmp_path: Path) -> None:
    show_the_same(SOME, tmp_path, areas=6)


def show_the_same(names: Sequence[str], tmp_path: Path, *, areas: int) -> None:
    """Fail unless two clouds show the same in these rows, and what is documented."""
    page = tmp_path / "parity.html"
    done = cli(
        "parity", *(word for name in names for word in ("--row", name)), "--html", str(page), "--json", timeout_s=380
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"comparing a local cloud with another one: {len(names)} rows of {areas} areas" in done.stderr
    found = json.loads(done.stdout)
    assert {f"{one['row']['area']}/{one['row']['name']}" for one in found["rows"]} == set(names)
    assert {one["verdict"] for one in found["rows"]} == {"equal"}
    assert [one["row"]["name"] for one in found["rows"] if one["first"]["seen"] != one["row"]["expects"]] == []
    assert page.read_text().count("class='equal'") == len(names)


def test_a_row_that_does_not_end_takes_neither_the_next_nor_its_objects_along(cloud: Running) -> None:
    """A dict that a row has made stays when the row is given up, until the run is over."""
    rows = chosen(names=["functions/retries-call-again", "functions/timeouts-raise", "functions/a-call-returns"])
    hurried = [
        one.model_copy(update={"seconds": 1}) if one.name.startswith(("retries", "timeouts")) else one for one in rows
    ]
    found = observe(hurried, dict(os.environ))
    assert found["functions/a-call-returns"].seen == [42, 43]
    given_up = {key: one.missing for key, one in found.items() if one.missing}
    assert set(given_up.values()) <= {"it did not end within 1 s"}
    assert "functions/timeouts-raise" in given_up
    for kind in (modal.Dict, modal.Volume, modal.Secret):
        assert [one.name for one in kind.objects.list() if str(one.name).startswith("parity-")] == []


def test_a_run_that_is_interrupted_leaves_nothing_in_the_workspace(cloud: Running) -> None:
    """The volumes of these rows have names and stay until the run's end, however it ends."""

    def interrupt(one: Row, seen: Observation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(chosen(names=["volumes/commits-are-read-outside"]), dict(os.environ), on_row=interrupt)
    assert [one.name for one in modal.Volume.objects.list() if str(one.name).startswith("parity-")] == []


@pytest.mark.modal_account
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    os.environ.get("WORKBENCH_TEST_MODAL") != "1",
    reason="goes to Modal and costs money: set WORKBENCH_TEST_MODAL=1 with a token (`modal token new`)",
)
def test_modal_itself_is_as_documented(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    command = [sys.executable, "-m", "workbench", "parity", "--target", "modal", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3500, check=False)
    rows = json.loads(done.stdout)["rows"]
    wrong = {
        one["row"]["name"]: one["second"]
        for one in rows
        if one["row"]["expects"] not in (one["second"]["seen"], "(not documented)")
    }
    assert wrong == {}
