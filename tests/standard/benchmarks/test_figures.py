"""What the benchmark says of its samples is right; how fast the machine is, is not tested."""

import json
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.commands import cli
from workbench.benchmarks import bare_processes, bare_stream, files_benchmark, output_benchmark
from workbench.benchmarks.figures import Figure, Samples
from workbench.local_cloud.process.state_directory import Running


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.951, 96), (0.99, 99), (1.0, 100)])
def test_quantiles_are_nearest_ranks(share: float, expected: float) -> None:
    assert Samples("s", tuple(range(100, 0, -1))).quantile(share) == expected


@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_a_sample(values: list[float], share: float) -> None:
    assert Samples("s", tuple(values)).quantile(share) in values


def test_a_ratio_is_of_medians() -> None:
    figure = Figure("f", "ms", "less", Samples("ours", (2, 100, 4)), (Samples("bare", (1, 2, 3)),))
    assert figure.facts()["baselines"][0]["ratio"] == 2  # type: ignore[index]  # a list of dicts


def test_a_baseline_that_fails_is_no_baseline() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        list(bare_processes.chunks([sys.executable, "-c", "raise SystemExit(3)"]))


def test_the_bare_stream_carries_the_program_s_output_and_ends() -> None:
    with bare_stream.serving() as url:
        answer = httpx.post(url, content=b"print('one')", timeout=30, trust_env=False)
        data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert "".join(one.get("text", "") for one in data) == "one\n"
        assert answer.text.endswith("event: done\ndata: {}\n\n")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_the_command_tells_figures_with_their_baselines(cloud: Running) -> None:
    """A cloud of its own is started and ended; the one that runs already is left alone."""
    done = cli("bench", "--only", "sandboxes", "--repeat", "1", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert {figure["figure"] for figure in figures} >= {"sandbox create → first output", "warm exec → exit code"}
    for figure in figures:
        assert figure["median"] > 0
        assert [baseline["median"] > 0 and baseline["ratio"] > 0 for baseline in figure["baselines"]]
    assert cloud.alive


def test_output_is_measured_beside_what_does_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_benchmark, "LINES", 10_000)
    monkeypatch.setattr(output_benchmark, "_ALONE", 100)
    figures = list(output_benchmark.measure(1))
    assert [figure.name for figure in figures] == [
        "10,000 lines, taken in",
        "a search for one of them",
        "a search for what is in each",
        "100 events of a line each, taken in",
    ]
    assert all(figure.ours.median > 0 and figure.baselines[0].median > 0 for figure in figures)


def test_a_project_is_measured_beside_an_empty_one_and_the_tools_that_copy(
    cloud: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_benchmark, "FILES", 300)
    figures = list(files_benchmark.measure(1))
    assert [(figure.name, [one.name for one in figure.baselines]) for figure in figures] == [
        ("mount 300 files", ["mount an empty project", "mount by copies", "cp -a"]),
        ("commit 300 files, all new", ["git add, commit", "cp -a"]),
        ("one-file run, 300 files", ["in an empty project"]),
    ]
    assert all(figure.ours.median > 0 and figure.baselines[0].median > 0 for figure in figures)


def test_an_empty_run_is_measured_beside_bubblewrap_alone(cloud: Running) -> None:
    done = cli("bench", "--only", "run", "--repeat", "1", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert [figure["figure"] for figure in figures] == ["create → first output", "empty run, launch → done"]
    for figure in figures:
        baselines = {baseline["name"]: baseline for baseline in figure["baselines"]}
        assert {"bubblewrap", "subprocess"} <= set(baselines) <= {"bubblewrap", "subprocess", "srt"}
        assert all(baseline["median"] > 0 and baseline["ratio"] > 0 for baseline in baselines.values())
    assert cloud.alive


@pytest.mark.parametrize("code", ["print(1)", "import sys; sys.stdout.write('1')", "import os; os.write(1, b'1')"])
def test_bubblewrap_alone_runs_what_a_process_runs(code: str) -> None:
    command = bare_processes.bubblewrapped(bare_processes.python(code))
    assert b"".join(data for _, data in bare_processes.chunks(command)).strip() == b"1"


def test_an_unknown_group_is_refused() -> None:
    done = cli("bench", "--only", "everything")
    assert (done.returncode, "sandboxes, volumes, streams, deltas, bridge, demo, output" in done.stderr) == (2, True)
