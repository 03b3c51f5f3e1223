"""Ended runs as their archives tell them: found, read, proved, and never believed more than their bytes allow."""

import asyncio
import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import modal
import pytest

from modal_app.contract import sse
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import DoneEvent, ErrorEvent, StatusEvent, StreamEvent, parse_event
from modal_app.contract.proof import Bundle, ProcessFacts, verify
from modal_app.runs.archive_writer import BUNDLE, EVENTS, Archive, directory
from modal_app.runs.run_records import new_run_id
from modal_app.runs.shared_state import SharedState
from tests.conftest import live_sandboxes
from workbench import (
    ArchivedRun,
    ArchiveUnavailableError,
    ArchiveUnreadableError,
    DeployFailedError,
    Project,
    Run,
    RunArchive,
    RunNotArchivedError,
    TargetUnavailableError,
    Workbench,
    connect,
)
from workbench.runs import archive

PROMISES = ["archive", "bytes", "one_end", "sequence", "facts", "exit_code", "timeout", "sandbox_ended", "commit"]
HOSTILE = "<script>alert(1)</script>\x1b[2J\x1b]0;owned\x07\u202e\n"


@pytest.fixture(scope="module")
def runs(wb: Workbench) -> dict[str, Run]:
    """One run for each way of ending, oldest first, all archived."""
    shared = Project.new()
    started = {
        "done": wb.launch(shared, "python", code="print('é' * 3); open('note', 'w').write('x')"),
        "failed": wb.launch(Project.new(), "python", code="raise SystemExit(3)"),
        "late": wb.launch(Project.new(), "python", code="import time; time.sleep(60)", timeout_s=1),
        "cancelled": wb.launch(Project.new(), "python", code="print(1, flush=True); import time; time.sleep(60)"),
    }
    for event in started["cancelled"].follow():
        if isinstance(event, StreamEvent):
            break
    started["cancelled"].cancel()
    for run in started.values():
        run.wait()
    for name, action, fields in (
        ("git", "git", {"op": "init"}),
        ("files", "files", {"op": "list"}),
    ):
        started[name] = wb.launch(shared, action, **fields)
        assert started[name].wait().type == "done"
    for run in started.values():
        wb.runs.get(run.run_id, wait_s=30)
    return started


@pytest.fixture(scope="module")
def archived(wb: Workbench, runs: dict[str, Run]) -> ArchivedRun:
    """A run that is done."""
    return wb.runs.get(runs["done"].run_id)


class Shelf:
    """A volume of archives that a test fills by hand, and the workbench that reads it."""

    def __init__(self, workbench: Workbench, volume: modal.Volume) -> None:
        self.workbench = workbench
        self._volume = volume

    @property
    def runs(self) -> RunArchive:
        return self.workbench.runs

    def put(self, **files: bytes) -> str:
        """A run with these files, `run` and `events`; returns its id."""
        run_id = new_run_id()
        self.put_below(directory(run_id), **files)
        return run_id

    def put_below(self, path: str, **files: bytes) -> None:
        with self._volume.batch_upload(force=True) as batch:
            for name, data in files.items():
                batch.put_file(io.BytesIO(data), f"{path}/{ {'run': BUNDLE, 'events': EVENTS}[name] }")


@pytest.fixture
def shelf(wb: Workbench) -> Iterator[Shelf]:
    volume = modal.Volume.from_name("shelf-runs", create_if_missing=True, version=2)
    volume.hydrate()
    with Workbench(wb.target, app_name="shelf") as workbench:
        yield Shelf(workbench, volume)
    modal.Volume.objects.delete("shelf-runs")


# -- finding and reading ----------------------------------------------------------------------------------------------


def test_the_newest_come_first_and_a_list_can_be_narrowed(wb: Workbench, runs: dict[str, Run]) -> None:
    everything = wb.runs.list(limit=2000)
    ids = [one.run_id for one in everything]
    assert everything.complete
    assert ids == sorted(ids, reverse=True) == list(wb.runs.ids())
    assert {run.run_id for run in runs.values()} <= set(ids)
    two = wb.runs.list(limit=2)
    assert ([one.run_id for one in two], two.complete) == (ids[:2], False)
    [own] = [one.bundle for one in everything if one.run_id == runs["files"].run_id]  # others run here, too
    assert own is not None
    shared = Project(own.user_id, own.project_id)
    assert [one.run_id for one in wb.runs.list(project=shared)] == [
        runs[name].run_id for name in ("files", "git", "done")
    ]
    assert len(wb.runs.list(project=shared.project_id)) == 3
    assert len(wb.runs.list(project=Project.new())) == 0
    ended = {"failed": "process_failed", "late": "process_timeout", "cancelled": "cancelled"}
    for name, outcome in ended.items():
        assert runs[name].run_id in [one.run_id for one in wb.runs.list(limit=2000, outcome=outcome)]
    errors = {one.run_id for one in wb.runs.list(limit=2000, outcome="error")}
    assert {runs[name].run_id for name in ended} <= errors
    assert runs["done"].run_id not in errors


def test_an_archive_is_what_its_readers_saw(wb: Workbench, runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        kept = wb.runs.get(run.run_id)
        assert (kept.events, kept.terminal, kept.problem) == (run.events, run.terminal, ""), name
        assert kept.text() == run.text()
        assert kept.timeline == run.timeline
        assert kept.stream == b"".join(sse.frame(event) for event in run.events)


def test_where_the_time_went_and_what_it_may_have_cost(archived: ArchivedRun) -> None:
    steps = {step.name: step for step in archived.timeline.steps}
    assert {"sandbox create", "sandbox ready", "first byte", "run", "commit", "terminate"} <= set(steps)
    assert steps["first byte"].end_ms <= archived.timeline.total_ms
    assert steps["sandbox create"].end_ms == steps["sandbox ready"].start_ms
    assert archived.bundle.cost is not None
    assert archived.bundle.cost.usd > 0
    assert dict(archived.facts())["exit code"].startswith("0, after ")


def test_what_is_not_there_is_said(wb: Workbench, runs: dict[str, Run]) -> None:
    with pytest.raises(RunNotArchivedError, match="runs follow"):
        wb.runs.get(new_run_id())
    with pytest.raises(RunNotArchivedError):
        wb.runs.verify(new_run_id(), wait_s=0.5)
    for wrong in ("../../projects", "", runs["done"].run_id.upper(), "x" * 36):
        with pytest.raises(ContractError, match="run_id"):
            wb.runs.get(wrong)


def test_the_endpoint_is_told_at_once_that_an_archive_is_gone(shelf: Shelf) -> None:
    """Otherwise it would take it for a fault that passes, and try again for as long as its patience lasts."""
    with pytest.raises(modal.exception.NotFoundError):
        asyncio.run(Archive(SharedState.named("shelf")).bundle(new_run_id()))


def test_archives_are_read_through_the_apps_volume() -> None:
    with connect("https://example.invalid/") as elsewhere, pytest.raises(TargetUnavailableError, match="volume"):
        _ = elsewhere.runs


def test_an_app_that_was_never_deployed_has_no_archives(wb: Workbench) -> None:
    with Workbench(wb.target, app_name="never-deployed") as other, pytest.raises(DeployFailedError, match="deploy"):
        _ = other.runs


def test_a_cloud_that_does_not_answer_is_no_failed_proof(wb: Workbench, runs: dict[str, Run]) -> None:
    archives = wb.runs
    with (
        wb.faults.injected(rpc="VolumeGetFile2", status="PERMISSION_DENIED"),
        pytest.raises(ArchiveUnavailableError, match="PermissionDenied"),
    ):
        archives.verify(runs["done"].run_id)
    assert all(check.ok for check in archives.verify(runs["done"].run_id))


# -- proof ------------------------------------------------------------------------------------------------------------


def test_every_way_of_ending_is_proved(wb: Workbench, runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        checks = wb.runs.verify(run.run_id)
        assert [check.name for check in checks] == PROMISES
        assert [check for check in checks if not check.ok] == [], name
    assert live_sandboxes() == []


def _bundle(run: ArchivedRun, **changes: Any) -> Bundle:
    return run.bundle.model_copy(update=changes)


def _sealed(bundle: Bundle, stream: bytes) -> Bundle:
    """What someone would write who knows how the digest is made."""
    facts = {"bytes": len(stream), "sha256": hashlib.sha256(stream).hexdigest()}
    return bundle.model_copy(update={"events": bundle.events.model_copy(update=facts)})


def _frames(run: ArchivedRun) -> list[bytes]:
    return [sse.frame(event) for event in run.events]


def _changed_output(run: ArchivedRun) -> tuple[Bundle, bytes]:
    return run.bundle, run.stream.replace("é".encode(), "è".encode(), 1)


def _gap(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = b"".join(frame for number, frame in enumerate(_frames(run)) if number != 2)
    return _sealed(run.bundle, stream), stream


def _twice(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = run.stream + _frames(run)[-1]
    return _sealed(run.bundle, stream), stream


def _no_end(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = b"".join(_frames(run)[:-1])
    return _sealed(run.bundle, stream), stream


def _framed_as_another(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = run.stream.replace(b"id: 2\n", b"id: 9\n", 1)
    return _sealed(run.bundle, stream), stream


def _of_another_run(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = run.stream.replace(run.run_id.encode(), new_run_id().encode())
    return _sealed(run.bundle, stream), stream


def _wrong_exit_code(run: ArchivedRun) -> tuple[Bundle, bytes]:
    assert run.bundle.process is not None
    return _bundle(run, process=run.bundle.process.model_copy(update={"exit_code": 1})), run.stream


def _unseen_exit_code(run: ArchivedRun) -> tuple[Bundle, bytes]:
    return _bundle(run, process=None), run.stream


def _hidden_timeout(run: ArchivedRun) -> tuple[Bundle, bytes]:
    assert run.bundle.process is not None
    return _bundle(run, process=run.bundle.process.model_copy(update={"timed_out": True})), run.stream


def _unterminated(run: ArchivedRun) -> tuple[Bundle, bytes]:
    assert run.bundle.sandbox is not None
    stream = run.stream.replace(b'"terminated":true', b'"terminated":false')
    bundle = _bundle(run, sandbox=run.bundle.sandbox.model_copy(update={"terminated": False}))
    return _sealed(bundle, stream), stream


def _unterminated_but_told(run: ArchivedRun) -> tuple[Bundle, bytes]:
    stream = run.stream.replace(b'"terminated":true', b'"terminated":false')
    return _sealed(run.bundle, stream), stream


def _uncommitted(run: ArchivedRun) -> tuple[Bundle, bytes]:
    assert run.bundle.commit is not None
    stream = run.stream.replace(b'"committed":true', b'"committed":false')
    bundle = _bundle(run, commit=run.bundle.commit.model_copy(update={"committed": False}))
    return _sealed(bundle, stream), stream


def _not_read_back(run: ArchivedRun) -> tuple[Bundle, bytes]:
    assert run.bundle.commit is not None
    stream = run.stream.replace(b'"compared":1', b'"compared":0')
    bundle = _bundle(run, commit=run.bundle.commit.model_copy(update={"compared": 0}))
    return _sealed(bundle, stream), stream


def _another_outcome(run: ArchivedRun) -> tuple[Bundle, bytes]:
    return _bundle(run, outcome="cancelled"), run.stream


TAMPERED: list[tuple[Callable[[ArchivedRun], tuple[Bundle, bytes]], set[str]]] = [
    (_changed_output, {"bytes"}),
    (_gap, {"sequence", "one_end", "facts", "exit_code"}),
    (_twice, {"sequence"}),
    (_no_end, {"one_end", "sequence", "facts", "exit_code"}),
    (_framed_as_another, {"sequence", "one_end", "facts", "exit_code"}),
    (_of_another_run, {"sequence"}),
    (_wrong_exit_code, {"exit_code"}),
    (_unseen_exit_code, {"exit_code"}),
    (_hidden_timeout, {"timeout"}),
    (_unterminated, {"sandbox_ended"}),
    (_unterminated_but_told, {"facts"}),
    (_uncommitted, {"commit"}),
    (_not_read_back, {"commit"}),
    (_another_outcome, {"one_end"}),
]


def test_a_tampered_archive_fails_by_name(shelf: Shelf, archived: ArchivedRun) -> None:
    """Each promise has a check of its own that notices when it is broken, even where the digest was made anew."""
    for tamper, broken in TAMPERED:
        bundle, stream = tamper(archived)
        assert (bundle, stream) != (archived.bundle, archived.stream)
        shelf.put_below(directory(archived.run_id), run=bundle.model_dump_json().encode(), events=stream)
        failed = {check.name for check in shelf.runs.verify(archived.run_id) if not check.ok}
        assert failed == broken, tamper.__name__
    run_id = shelf.put(run=archived.bundle.model_dump_json().encode(), events=archived.stream)
    assert [check.name for check in shelf.runs.verify(run_id) if not check.ok] == ["archive"]


def test_what_is_missing_or_is_no_archive_fails_and_is_listed(
    shelf: Shelf, archived: ArchivedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = archived.bundle.model_dump_json().encode()
    for files, told in (
        ({"events": archived.stream}, "run.json is missing"),
        ({"run": facts}, "events.sse is missing"),
        ({"run": b"", "events": b""}, "run.json is not"),
        ({"run": b'{"run_id": 1}', "events": b""}, "run.json is not"),
        ({"run": b"[" * 100_000, "events": b""}, "run.json is not"),
        ({"run": b"x" * (archive.MAX_BUNDLE_BYTES + 1), "events": b""}, "too large: at most"),
    ):
        run_id = shelf.put(**files)
        [check] = shelf.runs.verify(run_id)
        assert (check.name, check.ok) == ("archive", False)
        assert told in check.detail
        with pytest.raises(ArchiveUnreadableError, match=re.escape(told)):
            shelf.runs.get(run_id)
        newest = shelf.runs.list()[0]
        assert (newest.run_id, newest.bundle is None) == (run_id, told.startswith("run.json") or "too large" in told)
    assert len(shelf.runs.list()) == 6
    assert len(shelf.runs.list(outcome="done")) == 1
    monkeypatch.setattr(archive, "MAX_STREAM_BYTES", 100)
    run_id = shelf.put(run=facts, events=archived.stream)
    assert "too large: at most 100 bytes" in shelf.runs.verify(run_id)[0].detail


def test_what_else_is_in_the_volume_is_no_run(shelf: Shelf, archived: ArchivedRun) -> None:
    for path in ("/2026-01-01/not-a-run", "/elsewhere/" + archived.run_id, "/2026-01-01", "/"):
        shelf.put_below(path.rstrip("/"), run=archived.bundle.model_dump_json().encode())
    assert list(shelf.runs.ids()) == []
    assert "no run" in shelf.runs.list()._repr_mimebundle_()["text/plain"]


def test_a_list_does_not_look_for_ever(shelf: Shelf, archived: ArchivedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        shelf.put(run=archived.bundle.model_dump_json().encode(), events=archived.stream)
    assert shelf.runs.list(outcome="cancelled").complete
    monkeypatch.setattr(archive, "_AT_ONCE", 1)
    monkeypatch.setattr(archive, "MAX_LOOKED_AT", 2)
    found = shelf.runs.list(outcome="cancelled")
    assert (len(found), found.complete) == (0, False)


def test_an_end_that_its_owner_told_before_it_was_lost_is_no_broken_promise(archived: ArchivedRun) -> None:
    """Whoever closes such a run has its log, and nothing that its owner alone has seen."""
    last = archived.events[-1]
    assert isinstance(last, DoneEvent)
    common = last.model_dump(include={"run_id", "seq", "at_ms", "elapsed_ms", "sandbox", "commit"})
    for code, exit_code in ((ErrorCode.PROCESS_FAILED, 3), (ErrorCode.PROCESS_TIMEOUT, None)):
        end = ErrorEvent(**common, code=code, message="m", recoverable=False, exit_code=exit_code)
        stream = b"".join([*_frames(archived)[:-1], sse.frame(end)])
        closed = _sealed(_bundle(archived, outcome=str(code), process=None, closed_by="other"), stream)
        assert [check for check in verify(closed, stream) if not check.ok] == []
        by_owner = _sealed(_bundle(archived, outcome=str(code), process=None), stream)
        assert [check.name for check in verify(by_owner, stream) if not check.ok] != []


# -- hostile content --------------------------------------------------------------------------------------------------


def test_nothing_in_an_archive_becomes_markup_or_drives_a_terminal(shelf: Shelf, archived: ArchivedRun) -> None:
    huge = 10**400
    bundle = _bundle(
        archived,
        run_id=HOSTILE,
        user_id=HOSTILE,
        project_id=HOSTILE,
        action=HOSTILE,
        outcome=HOSTILE,
        accepted_at_ms=huge,
        ended_at_ms=huge * 2,
        sandbox=archived.bundle.sandbox.model_copy(update={"id": HOSTILE}) if archived.bundle.sandbox else None,
        process=ProcessFacts(limit_s=1, took_ms=huge),
    )
    first, *rest = archived.events
    assert isinstance(first, StatusEvent)
    evil = [first, *(event.model_copy(update={"elapsed_ms": huge}) for event in rest)]
    stream = b"".join(sse.frame(event) for event in evil)
    run_id = shelf.put(run=bundle.model_dump_json().encode(), events=stream)
    found = shelf.runs.get(run_id)
    shown = [*shelf.runs.list()._repr_mimebundle_().values(), *found._repr_mimebundle_().values(), repr(found)]
    shown += itertools.chain(*shelf.runs.list().rows(), *found.facts())
    for text in shown:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    for bundle_of in (shelf.runs.list(), found):
        assert "<script" not in bundle_of._repr_mimebundle_()["text/html"]
        assert "&lt;script&gt;" in bundle_of._repr_mimebundle_()["text/html"]


def test_notebooks_show_a_table_and_a_run(wb: Workbench, runs: dict[str, Run], archived: ArchivedRun) -> None:
    newest = wb.runs.list(limit=2)
    page = newest._repr_mimebundle_()
    assert page["text/html"].count("<tr>") == 3
    assert len(page["text/plain"].splitlines()) == 4
    assert newest[0].run_id in page["text/html"]
    shown = archived._repr_mimebundle_()
    for text in ("sandbox create", "✓", "sandbox_ended", "outcome"):
        assert text in shown["text/html"]
        assert text in shown["text/plain"]
    assert parse_event(archived.events[0].model_dump_json()) == archived.events[0]


@pytest.mark.parametrize(
    "rule",
    [
        {"at": "call", "rpc": "SandboxCreate*", "status": "RESOURCE_EXHAUSTED"},
        {"at": "stream", "rpc": "TaskExecStdioRead", "kill": "sandbox"},
        {"at": "commit", "status": "INTERNAL"},
    ],
)
def test_the_fault_rule_that_ended_a_run_is_its_reason(wb: Workbench, rule: dict[str, str]) -> None:
    """Of the run itself, of its archive and in every list; a run that nothing ended names none."""
    project = Project.new()
    with wb.faults.injected(**rule) as rule_id:
        run = wb.launch(project, "python", code="print('hello', flush=True); open('a', 'w').write('x')")
        assert run.wait().type == "error"
    assert run.reason.startswith(f"fault rule {rule_id} (at={rule['at']}")
    assert f"fault rule {rule_id}" in repr(run)
    found = wb.runs.get(run.run_id, wait_s=30)
    assert found.reason.startswith(f"fault rule {rule_id}")
    assert f"fault rule {rule_id}" in dict(found.facts())["reason"]
    listed = wb.runs.list(project=project)
    assert listed[0].reason.startswith(f"fault rule {rule_id}")
    assert listed.records()[0]["reason"].startswith(f"fault rule {rule_id}")
    well = wb.launch(project, "python", code="raise SystemExit('of its own')")
    well.wait()
    assert "of its own" in well.reason
    assert "of its own" in wb.runs.get(well.run_id, wait_s=30).reason


def test_what_a_hop_holds_back_is_told_of_the_run(wb: Workbench) -> None:
    code = "import time\nfor step in range(5):\n    print(step, flush=True)\n    time.sleep(0.5)"
    with wb.faults.injected(at="web", app=wb.app_name, buffer_bytes=1_000_000):
        run = wb.launch(Project.new(), "python", code=code)
        run.wait()
    assert run.arrivals.most_ms >= 1500
    assert "holds them back" in run.arrivals.told
    assert max(run.arrivals.lags, key=lambda one: one.lag_ms).from_ms < 1000  # the first was held longest


def test_memory_and_processor_of_a_run_are_told_over_time(wb: Workbench) -> None:
    """By the platform's own samples, of the run and later of its archive; of a run without one, that there is none."""
    code = "import time\nheld = bytearray(b'x') * (150 << 20)\nend = time.time() + 7\nwhile time.time() < end: pass"
    run = wb.launch(Project.new(), "python", code=code)
    assert run.measured().uses == ()
    run.wait()
    for one in (run, wb.runs.get(run.run_id, wait_s=30)):
        found = one.measured()
        assert max(use.memory_mib for use in found.uses) > 140, found
        assert max(use.cores for use in found.uses) > 0
        assert all(0 <= use.from_ms < use.to_ms for use in found.uses)
        assert "MiB" in found.told
    short = wb.launch(Project.new(), "git", op="status")
    short.wait()
    assert "sample" in short.measured().told or short.measured().uses


@pytest.mark.parametrize(("begin", "end"), [(10**400, 10**401), (-(10**400), 0), (5, 4), (0, 2**60)])
def test_times_that_are_none_are_said_and_not_asked_for(wb: Workbench, begin: int, end: int) -> None:
    """An archive may have been changed since it was written."""
    assert "no times" in wb._measured("sb-1", begin, end).told


def test_what_modal_does_not_tell_is_said(wb: Workbench) -> None:
    elsewhere = Workbench(dataclasses.replace(wb.target, kind="modal", cloud_url=None))
    try:
        assert "Modal does not tell" in elsewhere._measured("sb-1", 0, 1000).told
    finally:
        elsewhere.close()
