"""The player finds runs where they are kept."""

from tests.conftest import wait_until
from workbench import Project, Workbench
from workbench.widgets import Replay


def test_the_widget_finds_and_loads_archived_runs(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="print('kept')")
    run.wait(60)
    kept = wb.runs.get(run.run_id, wait_s=60)
    replay = Replay(workbench=wb)
    replay._on_message(replay, {"type": "play"}, [])
    wait_until(lambda: replay.problem == "choose a run to play first", "it plays nothing")
    replay._on_message(replay, {"type": "hello"}, [])
    wait_until(lambda: run.run_id in [one["run_id"] for one in replay.offered], "the run was not offered")
    replay._on_message(replay, {"type": "load", "run_id": "no-such-run"}, [])
    wait_until(lambda: "run_id" in replay.problem, "it was not refused")
    replay._on_message(replay, {"type": "load", "run_id": run.run_id}, [])
    wait_until(lambda: replay.count == len(kept.events), "the run was not loaded")
    assert replay.playback is not None
    assert replay.playback.checks()
    replay.close()
