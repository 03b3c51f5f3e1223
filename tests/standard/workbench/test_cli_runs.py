"""`workbench runs` as its users have it: what became of runs, and the way back to those that go on."""

import json
import signal
import subprocess

from modal_app.contract.events import StreamEvent, parse_event
from modal_app.runs.run_records import new_run_id
from tests.conftest import live_sandboxes
from tests.support.commands import WORKBENCH, cli
from workbench import Project, Run, Workbench

LASTING = "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('over', flush=True)"
ENDLESS = "import time\nprint('begun', flush=True)\ntime.sleep(90)"


def started(wb: Workbench, project: Project, code: str) -> Run:
    """A run whose job has begun to print."""
    run = wb.launch(project, "python", code=code)
    assert any(isinstance(event, StreamEvent) for event in run.follow())
    return run


def test_a_run_is_listed_shown_and_proved(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = wb.launch(project, "python", code="print('\\x1b[2Jhello'); open('a', 'w').write('1')")
    run.wait()
    proved = cli("runs", "verify", run.run_id, *app)  # waits until it is archived
    assert proved.returncode == 0, proved.stderr
    assert "✓ sandbox_ended" in proved.stdout
    assert "✗" not in proved.stdout

    listed = cli("runs", "list", "--project", project.project_id, *app)
    for text in (run.run_id, "python", "done", "$0.0000"):
        assert text in listed.stdout
    [facts] = [json.loads(line) for line in cli("runs", "list", "--json", "--limit", "1", *app).stdout.splitlines()]
    assert (facts["run_id"], facts["outcome"], facts["closed_by"]) == (run.run_id, "done", "owner")
    nothing = cli("runs", "list", "--outcome", "out_of_memory", "--project", project.project_id, *app)
    assert nothing.stdout.startswith("no such run")

    shown = cli("runs", "show", run.run_id, "--events", *app)
    for text in ("hello", "sandbox create", "terminate", "estimated", "✓ commit", "1 files changed"):
        assert text in shown.stdout
    assert "\x1b" not in shown.stdout
    *events, last = cli("runs", "show", run.run_id, "--events", "--json", *app).stdout.splitlines()
    assert tuple(map(parse_event, events)) == run.events
    whole = json.loads(last)
    assert all(check["ok"] for check in whole["checks"])
    assert {"sandbox create", "run", "commit", "terminate"} <= set(whole["steps"])
    assert whole["cost"]["usd"] > 0


def test_an_ended_run_is_started_again_as_it_was(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = wb.launch(project, "python", code="import sys; print(sys.argv[1:]); raise SystemExit(3)", args=["a b", ""])
    run.wait()
    wb.runs.get(run.run_id, wait_s=30)
    shown = cli("runs", "show", run.run_id, *app).stdout
    assert "input\n  action: python\n  code: import sys;" in shown
    second = cli("runs", "again", run.run_id, *app)
    assert second.returncode == 1
    assert "│ ['a b', '']\n" in second.stdout
    newest, before = wb.runs.list(limit=2, project=project)
    assert (newest.run_id != run.run_id, before.run_id) == (True, run.run_id)
    other = Project.new()
    third = wb.again(run.run_id, project=other)
    assert third.wait().exit_code == 3
    assert third.request is not None
    assert third.request.project_id == other.project_id
    fed = wb.launch(project, "python", code="print(input())", stdin="secret")
    fed.wait()
    wb.runs.get(fed.run_id, wait_s=30)
    refused = cli("runs", "again", fed.run_id, *app)
    assert refused.returncode == 2
    assert "stdin is not kept" in refused.stderr
    assert cli("runs", "again", run.run_id, "--user", other.user_id, *app).returncode == 2


def test_all_runs_are_proved_and_one_that_is_not_is_named(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = wb.launch(project, "python", code="1")
    run.wait()
    wb.runs.get(run.run_id, wait_s=60)
    everything = cli("runs", "verify", "--all", *app)
    assert "runs are proved" in everything.stdout.splitlines()[-1]
    done = cli("runs", "verify", "--all", "--json", *app)
    each = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["ok"] for one in each if one["run_id"] == run.run_id] == [True]
    # Other tests have done harm to runs of this app: what the command says of all is what it says of each.
    assert done.returncode == everything.returncode == (0 if all(one["ok"] for one in each) else 1)
    for wrong in ([], [each[0]["run_id"], "--all"]):
        assert cli("runs", "verify", *wrong, *app).returncode == 2


def test_runs_that_go_on_are_listed(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = started(wb, project, ENDLESS)
    listed = cli("runs", "list", "--live", *app)
    assert f"{run.run_id}  python" in listed.stdout
    facts = [json.loads(line) for line in cli("runs", "list", "--live", "--json", *app).stdout.splitlines()]
    assert run.run_id in [one["run_id"] for one in facts]
    assert cli("runs", "list", "--live", "--outcome", "done", *app).returncode == 2
    wb.labels.label_run(run.run_id, name="long one", note="watch it")
    assert "s  long one (watch it)" in cli("runs", "list", "--live", "--name", "long", *app).stdout
    assert run.run_id not in cli("runs", "list", "--live", "--name", "longer", *app).stdout
    [labelled] = cli("runs", "list", "--live", "--json", "--name", "one", *app).stdout.splitlines()
    assert json.loads(labelled)["label"]["note"] == "watch it"
    run.cancel()
    assert run.run_id not in cli("runs", "list", "--live", *app).stdout


def test_following_a_live_run_and_leaving_it(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = started(wb, project, LASTING)
    followed = cli("runs", "follow", run.run_id, "--json", *app)
    assert followed.returncode == 0, followed.stderr
    assert tuple(parse_event(line) for line in followed.stdout.splitlines()) == run.events
    assert cli("runs", "follow", run.run_id, *app).stdout.count("begun") == 1  # after its end, too

    endless = started(wb, project, ENDLESS)
    command = [*WORKBENCH, "runs", "follow", endless.run_id, *app]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stderr is not None
            assert any(b"begun" in line for line in reader.stdout)
            reader.send_signal(signal.SIGINT)
            said = reader.stderr.read().decode()
            assert reader.wait(60) == 130
        finally:
            reader.kill()
    assert f"workbench runs follow {endless.run_id}" in said
    assert endless.state.condition == "running"
    ended = cli("runs", "cancel", endless.run_id, *app)
    assert (ended.returncode, ended.stdout) == (0, "cancelled\n"), ended.stderr
    assert live_sandboxes() == []
    end = endless.wait(30)
    assert (end.type, end.code) == ("error", "cancelled")
    again = cli("runs", "cancel", endless.run_id, "--json", *app)
    assert json.loads(again.stdout) == {"run_id": endless.run_id, "outcome": "cancelled"}
    assert cli("runs", "cancel", run.run_id, *app).stdout == "it had ended already: done\n"
    assert cli("runs", "follow", endless.run_id, *app).returncode == 1


def test_a_run_is_named_for_oneself_and_its_archive_stays_as_it_is(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    run = wb.launch(project, "python", code="print(1)")
    run.wait()
    before = wb.runs.get(run.run_id, wait_s=30)
    named = cli("runs", "label", run.run_id, "--name", "the baseline", "--note", "before the fix", *app)
    assert named.returncode == 0, named.stderr
    assert cli("runs", "show", run.run_id, *app).stdout.startswith("the baseline (before the fix)\nrun ")
    told = json.loads(cli("runs", "show", run.run_id, "--json", *app).stdout)
    assert told["label"] == {"name": "the baseline", "note": "before the fix"}
    assert wb.runs.get(run.run_id).bundle == before.bundle
    for wrong in (["--name", "two\nlines"], ["--note", "x" * 2001], ["--name", "\x1b[2J"]):
        refused = cli("runs", "label", run.run_id, *wrong, *app)
        assert (refused.returncode, "printable" in refused.stderr) == (2, True), refused.stderr
    assert cli("runs", "label", run.run_id, *app).returncode == 0
    assert run.run_id not in wb.labels.runs()


def test_runs_are_listed_with_their_names_and_notes_and_found_by_name(wb: Workbench, project: Project) -> None:
    app = ["--app-name", wb.app_name]
    mine = [*app, "--project", project.project_id]
    runs = []
    for _ in range(3):
        runs.append(wb.launch(project, "python", code="print(1)"))
        runs[-1].wait()
        wb.runs.get(runs[-1].run_id, wait_s=30)
    named, noted, bare = runs
    wb.labels.label_run(named.run_id, name="The [red]Grün[/red] Baseline", note="before the fix\nof it")
    wb.labels.label_run(noted.run_id, note="odd: grün")
    shown = cli("runs", "list", *mine).stdout
    for told in (*(run.run_id for run in runs), "name (note)", "[red]Grün[/red]", "Baseline", "(before", "(odd: grün)"):
        assert told in shown
    facts = [json.loads(line) for line in cli("runs", "list", "--json", *mine).stdout.splitlines()]
    assert {one["run_id"]: one.get("label") for one in facts} == {
        named.run_id: {"name": "The [red]Grün[/red] Baseline", "note": "before the fix\nof it"},
        noted.run_id: {"name": "", "note": "odd: grün"},
        bare.run_id: None,
    }
    for sought, found in (("baseline GRÜN", [named.run_id]), ("base line x", []), ("fix", []), ("  ", 3)):
        told = cli("runs", "list", "--json", "--name", sought, *mine).stdout.splitlines()
        ids = [json.loads(line)["run_id"] for line in told]
        assert (ids if isinstance(found, list) else len(ids)) == found, sought
    assert "name (note)" not in cli("runs", "list", "--name", "x", *mine).stdout


def test_names_that_cannot_be_read_hide_no_run(wb: Workbench, project: Project) -> None:
    """Unless runs are asked for by name."""
    app = ["--app-name", wb.app_name]
    run = wb.launch(project, "python", code="print(1)")
    run.wait()
    wb.runs.get(run.run_id, wait_s=30)
    wb.labels.label_run(run.run_id, name="kept")
    path = wb.labels._path
    kept = path.read_bytes()
    path.write_text('{"runs": 3}')
    try:
        for words in (["list", "--project", project.project_id], ["show", run.run_id]):
            shown = cli("runs", *words, *app)
            assert (shown.returncode, run.run_id in shown.stdout) == (0, True), shown.stderr
            assert "cannot be read" in shown.stderr
        refused = cli("runs", "list", "--name", "kept", *app)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "cannot be read" in refused.stderr
    finally:
        path.write_bytes(kept)


def test_what_is_wrong_with_a_run_id_is_said_in_one_sentence(wb: Workbench) -> None:
    for arguments, code, told in (
        (["show", "nonsense"], 2, "canonical"),
        (["verify", "../../x"], 2, "canonical"),
        (["verify", new_run_id()], 1, "no archive"),
        (["show", new_run_id()], 1, "runs follow"),
        (["follow", new_run_id()], 1, "no such run"),
        (["cancel", new_run_id()], 1, "no such run"),
        (["cancel", "nonsense"], 1, "canonical"),
        (["list", "--app-name", "not-deployed"], 1, "workbench deploy"),
        (["list", "--target", "https://example.invalid"], 1, "volume"),
    ):
        done = cli("runs", *arguments, env={"WORKBENCH_APP_NAME": wb.app_name})
        assert (done.returncode, told in done.stderr) == (code, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
