"""Which model stands behind an endpoint, and the life of the one that plays a script."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import wait_until
from workbench.deployment.model_backing import (
    UPSTREAM_KEY_VARIABLE,
    UPSTREAM_URL_VARIABLE,
    WITHOUT_CLAUDE_VARIABLE,
    Backing,
    ModelUnavailableError,
    backing,
    revive,
    scripted_model,
    why_without_claude,
)
from workbench.deployment.targets import Target

BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (UPSTREAM_KEY_VARIABLE, UPSTREAM_URL_VARIABLE, WITHOUT_CLAUDE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def local(tmp_path: Path, process: "subprocess.Popen[bytes]") -> Target:
    return Target("local", tmp_path / "endpoints", cloud_pid=process.pid)


def answers(model: Backing) -> int:
    headers = {"x-api-key": model.key}
    return httpx.post(f"{model.url}/v1/messages", json=BODY, headers=headers, trust_env=False, timeout=20).status_code


def pid_of(target: Target) -> int:
    return int(json.loads((target.private / "scripted-model.json").read_text())["pid"])


def test_the_scripted_model_is_started_once_and_ends_with_the_cloud(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    target = local(tmp_path, process)
    model = backing(target)
    assert model is not None
    assert answers(model) == 200
    assert answers(Backing(model.url, "sk-of-somebody-else-entirely")) == 401
    assert backing(target) == model
    assert stat.S_IMODE((target.private / "scripted-model.json").stat().st_mode) == 0o600
    assert model.key not in repr(model) + " ".join(psutil.Process(pid_of(target)).cmdline())
    pid = pid_of(target)
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(pid), "the scripted model has ended")


def test_a_scripted_model_that_has_ended_comes_back_where_it_was(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    """The endpoint that was deployed with it goes on."""
    target = local(tmp_path, process)
    revive(target)
    assert not target.private.exists(), "none is started that was not there before"
    model = backing(target)
    assert model is not None
    first = psutil.Process(pid_of(target))
    first.kill()
    wait_until(lambda: not first.is_running(), "it has ended")
    revive(target)
    assert answers(model) == 200
    assert pid_of(target) != first.pid


def test_a_key_of_the_deployers_own_comes_first(
    tmp_path: Path, process: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    target = local(tmp_path, process)
    monkeypatch.setenv(UPSTREAM_KEY_VARIABLE, "sk-the-deployers-own")
    assert backing(target) == Backing("https://api.anthropic.com", "sk-the-deployers-own")
    monkeypatch.setenv(UPSTREAM_URL_VARIABLE, "https://models.example")
    assert backing(target) == Backing("https://models.example", "sk-the-deployers-own")
    assert not target.private.exists()


@pytest.mark.parametrize("url", [None, "https://models.example", "http://no.example/?a=b"])
def test_who_wants_the_scripted_model_asks_no_service_whatever_is_set(
    tmp_path: Path, process: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    """The failure lab must never spend what a developer pays for."""
    target = local(tmp_path, process)
    monkeypatch.setenv(UPSTREAM_KEY_VARIABLE, "sk-the-deployers-own")
    if url is not None:
        monkeypatch.setenv(UPSTREAM_URL_VARIABLE, url)
    model = backing(target, scripted=True)
    assert model == scripted_model(target)
    assert backing(Target("modal", tmp_path / "modal"), scripted=True) is None


@pytest.mark.parametrize(
    ("url", "key", "told"),
    [
        ("http://models.example", "sk-the-deployers-own", "UPSTREAM_URL must be https"),
        ("https://models.example", "sk-short", "UPSTREAM_KEY must be at least"),
    ],
)
def test_what_the_gateway_would_not_start_with_is_told_before_anything_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, key: str, told: str
) -> None:
    monkeypatch.setenv(UPSTREAM_KEY_VARIABLE, key)
    monkeypatch.setenv(UPSTREAM_URL_VARIABLE, url)
    with pytest.raises(ModelUnavailableError, match=told) as caught:
        backing(Target("modal", tmp_path))
    assert key not in str(caught.value)


def test_on_modal_there_is_no_model_without_a_key(tmp_path: Path) -> None:
    assert backing(Target("modal", tmp_path)) is None


def test_without_npm_there_is_no_claude_and_the_fix_is_told(
    tmp_path: Path, process: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    target = local(tmp_path, process)
    assert why_without_claude(target) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install -y nodejs npm" in str(why_without_claude(target))
    assert backing(target) is None
    assert why_without_claude(Target("modal", tmp_path)) is None, "there, the image is built elsewhere"


def test_nothing_goes_on_beside_a_process_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("turns: [{text: hello}]")
    command = [sys.executable, "-m", "workbench.scripted_model", str(tmp_path / "s.yaml"), "--beside", "4194304"]
    done = subprocess.run(command, capture_output=True, env=os.environ, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
