"""The checklist names each misconfiguration that is planted, and is silent on a sound deployment."""

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import modal
import pytest

from tests.conftest import FAST, stop_apps, wait_until
from tests.support.commands import Cli, cli
from tests.support.edited_endpoint import deployed_from, edited_endpoint
from tests.support.switched_off import OFF
from workbench import Workbench, connect
from workbench.checks import deployment_lines
from workbench.checks.caller import Caller
from workbench.checks.checklist import CheckImpossibleError
from workbench.checks.lines import Report, Verdict, as_junit
from workbench.checks.subject import Subject
from workbench.deployment.app_secrets import SECRET_VARIABLE
from workbench.failures import hops

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def sound(wb: Workbench) -> Report:
    return wb.check()


def test_a_sound_deployment_has_no_line_that_fails(wb: Workbench, sound: Report) -> None:
    assert sound.failed == (), str(sound)
    assert [line.name for line in sound.lines if line.status == "skipped"] == ["secret rotation"]
    [partly] = [line for line in sound.lines if line.status == "partly"]
    assert (partly.name, "not known" in partly.evidence, "--upstream-s" in partly.fix) == (
        "time-outs aligned",
        True,
        True,
    )
    assert all(line.evidence for line in sound.lines)
    app_id = modal.App.lookup(wb.app_name).app_id
    assert list(modal.Sandbox.list(app_id=app_id)) == []


def test_a_report_is_drawn_without_a_kernel_and_is_junit(sound: Report) -> None:
    drawn = sound._repr_mimebundle_()
    assert "streaming end to end" in drawn["text/html"]
    assert "secret rotation" in drawn["text/plain"]
    suite = ET.fromstring(as_junit(sound))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(sound.lines)), "0", "1")
    assert Report.model_validate_json(sound.model_dump_json()) == sound


class Hop(hops.Hop):
    """A hop that passes everything on at once, but for what a test makes of it."""

    def __init__(self, wb: Workbench, harm: hops.Harm | None = None, **changes: Callable[..., Any]) -> None:
        for name, change in changes.items():
            setattr(self, name, change)
        super().__init__(wb.endpoint.url, harm)


def without(*names: str) -> Callable[..., dict[str, str]]:
    return lambda *given: {name: value for name, value in given[-1].items() if name not in names}


def leaking(status: int, piece: bytes) -> bytes:
    inside = b'{"error": "Traceback (most recent call last): File \\"/srv/x.py\\"", "code": "internal"}'
    return inside if status >= 400 else piece


def rewritten(status: int, piece: bytes) -> bytes:
    return b"<html>Bad gateway</html>" if status >= 400 else piece


def as_ours(wb: Workbench) -> Callable[[dict[str, str]], dict[str, str]]:
    secret = wb.endpoint.secret.get_secret_value()
    return lambda headers: {**headers, "x-modal-secret": secret}


def squeezed(_: int, piece: bytes) -> bytes:
    return gzip.compress(piece)


def marked(_: int, headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "content-encoding": "gzip"}


def test_each_thing_that_a_careless_hop_does_is_named(wb: Workbench) -> None:
    """Several at once, since each check runs jobs: every line must find its own."""
    let_in = as_ours(wb)
    keyless = without("idempotency-key", "last-event-id")
    with Hop(
        wb,
        asked=lambda headers: let_in(keyless(headers)),
        answered=without("x-accel-buffering", "cache-control"),
        sent=leaking,
    ) as hop:
        report = wb.check(through=hop.url, cold_start_s=0.001, upstream_s=60)
    expected = {
        "secrets configured": "the door is open",
        "streaming end to end": "strips: X-Accel-Buffering",
        "cold start within budget": "0.001 s are allowed",
        "idempotency": "started a second run",
        "resume and its end": "behind event",
        "errors sanitised": "leaks text",
    }
    for name, words in expected.items():
        assert report.line(name).status == "fail", str(report)
        assert words in report.line(name).evidence, str(report)
        assert report.line(name).fix
    assert f"the hop at {hop.url}" in report.line("streaming end to end").evidence
    assert "Cache-Control" in report.line("streaming end to end").evidence


@pytest.mark.parametrize(("upstream_s", "status"), [(60, "fail"), (900, "ok"), (None, "partly")])
def test_an_upstream_is_green_only_when_it_is_known_to_wait_long_enough(
    wb: Workbench, upstream_s: float | None, status: str
) -> None:
    with Caller(wb.endpoint) as caller:
        subject = Subject(wb.target, wb.app_name, caller, wb.endpoint, 15, upstream_s)
        found = deployment_lines.timeouts(subject)
    assert found.status == status, found
    assert upstream_s is None or f"upstream waits {upstream_s} s" in found.evidence


def test_a_rotation_after_which_the_former_secret_is_refused_at_once_is_named(wb: Workbench, tmp_path: Path) -> None:
    found = rotated(wb, edited_endpoint(tmp_path, OFF["overlap-of-secrets"]))
    assert (found.status, "former False, new True" in found.evidence) == ("fail", True), found
    assert "WORKBENCH_SECRET_PREVIOUS" in found.fix


def rotated(wb: Workbench, root: Path) -> Verdict:
    """What the line about rotation says of an endpoint from this directory; its app is taken back."""
    with Caller(wb.endpoint) as caller, deployed_from(root):
        found = deployment_lines.rotation(Subject(wb.target, wb.app_name, caller, wb.endpoint, 15, None), wanted=True)
    apps = json.loads(Cli({})("app", "list", "--json"))
    assert not [one for one in apps if "-check-" in one["description"] and one["state"] == "deployed"]
    return found


def test_a_hop_that_buffers_and_compresses_is_told_from_the_endpoint(wb: Workbench) -> None:
    with Hop(wb, "buffers whatever is said", sent=squeezed, answered=marked) as hop:
        report = wb.check(through=hop.url)
    assert report.failed == ("streaming end to end",), str(report)
    evidence = report.line("streaming end to end").evidence
    for words in ("compresses: Content-Encoding is gzip", "arrives all at once", f"the hop at {hop.url}"):
        assert words in evidence
    assert report.line("sandbox terminated on every path").status == "skipped"  # nothing came at which to cancel


def test_a_hop_that_loses_the_secret_and_answers_in_html_is_named(wb: Workbench) -> None:
    with Hop(wb, asked=without("x-modal-secret"), sent=rewritten) as hop:
        report = wb.check(through=hop.url)
    assert "the right secret gets HTTP 401" in report.line("secrets configured").evidence, str(report)
    assert "not a refusal of the contract" in report.line("errors sanitised").evidence, str(report)
    assert {line.status for line in report.lines} == {"fail", "skipped"}  # nothing is green that was not seen


def test_an_interrupted_check_takes_back_what_it_has_started(wb: Workbench) -> None:
    command = [sys.executable, "-m", "workbench", "check", "--app-name", wb.app_name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as checking:
        assert checking.stderr is not None
        for line in checking.stderr:
            if "paths validated" in line:
                break
        app_id = modal.App.lookup(wb.app_name).app_id
        wait_until(lambda: bool(list(modal.Sandbox.list(app_id=app_id))), "a job runs")
        checking.send_signal(signal.SIGINT)
        _, said = checking.communicate(timeout=60)
    assert checking.returncode == 130, said
    assert "Traceback" not in said
    assert list(modal.Sandbox.list(app_id=app_id)) == []


# What an edited copy of the endpoint has in the place of what ours has: the file, the old text, the new one.
EDITS = {
    "tenants apart": ("sandboxes/fleet.py", 'f"/projects/{user_id}/{project_id}"', '"/projects/shared"'),
    "sandbox terminated on every path": (
        "sandboxes/project_sandbox.py",
        "self.terminated = await see_it_end(self._sandbox, within_s=self._timeouts.terminate_s)",
        "self.terminated = True",
    ),
    "paths validated": ("contract/paths.py", 'if any(part in (b"", b".", b"..") for part in parts):', "if False:"),
    "time-outs aligned": ("endpoint_settings.py", "return self.function_s - self.sandbox_s", "return 0"),
    "streaming end to end": (
        "actions/python_action.py",
        '["python3", "-u", f"{WORKSPACE}',
        '["python3", f"{WORKSPACE}',
    ),
}
UNBUFFERED = (
    ("actions/python_action.py", "exec python3 -u", "exec python3"),
    ("sandboxes/project_sandbox.py", '"PYTHONUNBUFFERED": "1",', ""),
)


@pytest.fixture(scope="module")
def edited(wb: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """An endpoint with a mistake in each of several places."""
    edits = [*EDITS.values(), *UNBUFFERED]
    root = edited_endpoint(tmp_path_factory.mktemp("edited"), edits)
    with connect("local", app_name="check-edited") as own:
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in FAST.items():
                patch.setenv(variable, value)
            with deployed_from(root):
                own.deploy()
        yield own
    stop_apps("check-edited")


@pytest.fixture(scope="module")
def mistaken(edited: Workbench) -> Report:
    return edited.check()


@pytest.mark.parametrize("name", EDITS)
def test_a_mistake_in_the_endpoint_is_named(mistaken: Report, name: str) -> None:
    assert name in mistaken.failed, str(mistaken)
    assert mistaken.line(name).fix


def test_a_job_that_buffers_itself_is_told_from_a_hop(mistaken: Report) -> None:
    assert "the job's own output" in mistaken.line("streaming end to end").evidence


def test_what_is_missing_on_the_target_is_named(edited: Workbench, mistaken: Report) -> None:
    """Deleted from the app that nobody else uses, after its own report."""
    modal.Secret.objects.delete(f"{edited.app_name}-model")
    modal.Volume.objects.delete(f"{edited.app_name}-global")
    report = edited.check()
    assert f"missing: {edited.app_name}-model" in report.line("secrets configured").evidence, str(report)
    assert f"missing: {edited.app_name}-global" in report.line("volumes created and mounted").evidence, str(report)


def test_what_an_address_cannot_show_is_skipped(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, wb.endpoint.secret.get_secret_value())
    done = cli("check", "--target", wb.endpoint.url, "--json")
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line["status"] for line in json.loads(done.stdout)["lines"]}
    skipped = {name for name, status in lines.items() if status == "skipped"}
    assert skipped == {"sandbox terminated on every path", "secret rotation"}
    assert (lines["secrets configured"], lines["time-outs aligned"]) == ("partly", "partly")


def test_an_endpoint_that_does_not_answer_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "x" * 32)
    with connect("http://127.0.0.1:9") as nobody, pytest.raises(CheckImpossibleError, match="does not answer"):
        nobody.check()
    assert cli("check", "--target", "http://127.0.0.1:9").returncode == 3
    assert cli("check", "--target", "nowhere").returncode == 3
