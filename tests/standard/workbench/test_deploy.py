"""Deploying through the workbench: targets, secrets, rotation."""

import json
import stat
import uuid
from collections.abc import Iterator

import httpx
import modal
import pytest

from workbench import DeployFailedError, Project, TargetUnavailableError, Workbench, connect
from workbench.deployment.app_secrets import SECRET_VARIABLE
from workbench.deployment.model_backing import UPSTREAM_KEY_VARIABLE, WITHOUT_CLAUDE_VARIABLE
from workbench.deployment.targets import resolve


def test_the_callers_copy_of_the_secret_is_its_owners_only(wb: Workbench) -> None:
    (path,) = wb.target.private.glob(f"*{wb.app_name}.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"secret": wb.endpoint.secret.get_secret_value()}


def test_deploying_again_keeps_the_secret_and_rotation_accepts_both(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_MIN_CONTAINERS", "0")  # none is started for versions that nobody calls
    with connect("local", app_name="rotation-tests") as own:
        first = own.deploy()
        assert own.deploy() == first
        second = own.deploy(rotate_secret=True)
        assert second.secret != first.secret
        project = Project.new()
        body = {"user_id": project.user_id, "project_id": project.project_id, "action": "files", "op": "list"}
        for endpoint in (first, second):
            headers = {"X-Modal-Secret": endpoint.secret.get_secret_value()}
            assert httpx.post(f"{second.url}/generate", json=body, headers=headers, timeout=60).status_code == 200
        third = own.deploy(rotate_secret=True)
        headers = {"X-Modal-Secret": first.secret.get_secret_value()}
        assert httpx.post(f"{third.url}/generate", json=body, headers=headers, timeout=60).status_code == 401
        own.stop()


def test_what_is_not_deployed_is_told(wb: Workbench) -> None:
    with connect("local", app_name="never-deployed") as own, pytest.raises(DeployFailedError, match="workbench deploy"):
        own.launch(Project.new(), "python", code="1")


def test_a_deployment_whose_secret_is_not_here_is_not_called_absent(wb: Workbench) -> None:
    (path,) = wb.target.private.glob(f"*{wb.app_name}.json")
    aside = path.rename(path.with_suffix(".aside"))
    try:
        with (
            connect("local", app_name=wb.app_name) as own,
            pytest.raises(DeployFailedError, match=f"no copy of its secret: set {SECRET_VARIABLE}"),
        ):
            own.launch(Project.new(), "python", code="1")
    finally:
        aside.rename(path)


def test_a_deployment_that_fails_says_what_the_sdk_said(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_TIMEOUT_PROCESS_S", "5000")
    with connect("local", app_name="broken-tests") as own, pytest.raises(DeployFailedError, match="process_s"):
        own.deploy()


REFUSED = {
    "limits in the wrong order": {"WORKBENCH_TIMEOUT_PROCESS_S": "5000"},
    "a limit that is no number": {"WORKBENCH_TIMEOUT_SANDBOX_S": "an hour"},
    "a program that cannot be loaded": {"WORKBENCH_MAX_RUNS": "many"},
    "a count of containers that is none": {"WORKBENCH_MIN_CONTAINERS": "one"},
    "more containers than there may be": {"WORKBENCH_MIN_CONTAINERS": "100000"},
    "fewer runs than one needs": {"WORKBENCH_MAX_RUNS": "0"},
    "too little memory": {"WORKBENCH_MEMORY_MB": "-1"},
}


class Before:
    """An app that was deployed once, what this machine knows of its secrets, and what its next container would get."""

    def __init__(self, own: Workbench) -> None:
        self.own = own
        self.first = own.deploy()
        self.seen = self.now()

    def now(self) -> object:
        target, name = self.own.target, self.own.app_name
        copies = {path.name: path.read_text() for path in sorted(target.private.glob(f"*-{name}*.json"))}
        return copies, [inside(one) for one in (name, f"{name}-model")]


def inside(secret: str) -> dict[str, str]:
    """What a secret holds: only a container is told."""
    app = modal.App.lookup("secrets-shown", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, secrets=[modal.Secret.from_name(secret)])
    try:
        shown = sandbox.exec("env", "-0").stdout.read().split("\0")
    finally:
        sandbox.terminate(wait=True)
    return dict(one.split("=", 1) for one in sorted(shown) if one.startswith("WORKBENCH_"))


@pytest.fixture(scope="module")
def before(wb: Workbench) -> Iterator[Before]:
    with pytest.MonkeyPatch.context() as patch, connect("local", app_name="refused-tests") as own:
        patch.setenv("WORKBENCH_MIN_CONTAINERS", "0")
        own.deploy()
        own.deploy(rotate_secret=True)  # there is one before, which is accepted
        yield Before(own)
        own.stop()


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("why", REFUSED)
def test_a_program_that_is_refused_leaves_the_secrets_as_they_were(
    before: Before, monkeypatch: pytest.MonkeyPatch, why: str, *, rotate: bool
) -> None:
    for name, value in REFUSED[why].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeployFailedError, match=r"`modal deploy -m modal_app\.app` failed"):
        before.own.deploy(rotate_secret=rotate)
    assert before.now() == before.seen
    assert before.own.endpoint == before.first


@pytest.mark.parametrize("rpc", ["FunctionCreate", "AppPublish"])
def test_so_does_one_that_is_accepted_and_that_the_cloud_breaks_off(before: Before, wb: Workbench, rpc: str) -> None:
    with wb.faults.injected(at="call", rpc=rpc, status="FAILED_PRECONDITION"), pytest.raises(DeployFailedError):
        before.own.deploy(rotate_secret=True)
    assert before.now() == before.seen
    assert before.own.endpoint == before.first


@pytest.mark.parametrize("why", REFUSED)
def test_a_first_deployment_that_is_refused_leaves_no_secret(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    for name, value in REFUSED[why].items():
        monkeypatch.setenv(name, value)
    app_name = f"first-{uuid.uuid4().hex[:8]}"
    with connect("local", app_name=app_name) as own, pytest.raises(DeployFailedError):
        own.deploy()
    assert list(wb.target.private.glob(f"*-{app_name}*.json")) == []
    assert [one for one in (app_name, f"{app_name}-model") if is_stored(one)] == []


def test_a_model_that_is_asked_with_another_key_is_asked_so_only_by_a_program_that_is_accepted(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway's key is given to nobody again, so it could not be put back."""
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)
    monkeypatch.setenv(UPSTREAM_KEY_VARIABLE, "sk-another-key")
    monkeypatch.setenv("WORKBENCH_TIMEOUT_PROCESS_S", "5000")
    with pytest.raises(DeployFailedError):
        before.own.deploy()
    assert before.now() == before.seen


def test_what_another_machine_has_deployed_keeps_its_secret_when_a_program_is_refused(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = list(before.own.target.private.glob(f"*-{before.own.app_name}*.json"))
    aside = [one.rename(one.with_suffix(".aside")) for one in copies]
    try:
        monkeypatch.setenv("WORKBENCH_TIMEOUT_PROCESS_S", "5000")
        with pytest.raises(DeployFailedError):
            before.own.deploy()
        assert [one for one in copies if one.exists()] == []
    finally:
        for one, copy in zip(aside, copies, strict=True):
            one.rename(copy)
    assert before.now() == before.seen


def test_a_name_of_which_the_target_takes_one_secret_only_leaves_none(wb: Workbench) -> None:
    app_name = "n" * 61  # the gateway's would be too long
    with connect("local", app_name=app_name) as own, pytest.raises(DeployFailedError, match=f"{app_name}-model"):
        own.deploy()
    assert not is_stored(app_name)
    assert list(wb.target.private.glob(f"*-{app_name}*.json")) == []


def is_stored(secret: str) -> bool:
    try:
        modal.Secret.from_name(secret).hydrate()
    except (modal.exception.NotFoundError, modal.exception.InvalidError):
        return False
    return True


@pytest.mark.parametrize("name", ["nowhere", "", "ftp://x", "http://"])
def test_an_unknown_target_is_told(name: str) -> None:
    with pytest.raises(TargetUnavailableError, match="local, modal"):
        resolve(name)


def test_modal_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_SERVER_URL", raising=False)
    monkeypatch.delenv("MODAL_TOKEN_ID", raising=False)
    with pytest.raises(TargetUnavailableError, match="modal token new"):
        resolve("modal")


def test_modal_is_never_confused_with_a_local_cloud(wb: Workbench) -> None:
    with pytest.raises(TargetUnavailableError, match="MODAL_SERVER_URL"):
        resolve("modal")


def test_an_endpoint_by_address_is_used_and_not_deployed(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    with connect(wb.endpoint.url) as own:
        with pytest.raises(TargetUnavailableError, match=SECRET_VARIABLE):
            own.launch(Project.new(), "files", op="list")
        monkeypatch.setenv(SECRET_VARIABLE, wb.endpoint.secret.get_secret_value())
        assert own.launch(Project.new(), "files", op="list").wait(60).type == "done"
        with pytest.raises(TargetUnavailableError):
            own.deploy()
        with pytest.raises(TargetUnavailableError):
            own.volume(Project.new())
