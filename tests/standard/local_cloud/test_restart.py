"""What a restart of the cloud keeps, and what it forgets: seen by the stock SDK in a process of its own."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support import warm
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import State
from workbench.local_cloud.store.damage import DATABASE

pytestmark = pytest.mark.timeout(180)

APP = """
import modal
app = modal.App("kept")
@app.function(secrets=[modal.Secret.from_name("word"), modal.Secret.from_dict({"OTHER": "deployed"})])
def read():
    import os
    return os.environ["WORD"]
@app.function()
def sleep():
    import time
    time.sleep(600)
@app.local_entrypoint()
def spawns():
    sleep.spawn()
@app.cls()
class Counter:
    start: int = modal.parameter(default=1)
    @modal.method()
    def next(self):
        return self.start + 1
"""
BEFORE = """
import io, json, modal, os, re, subprocess, sys
for command in (["secret", "create", "word", "WORD=hush"], ["deploy", "kept.py"]):
    subprocess.run([sys.executable, "-m", "modal", *command], check=True, capture_output=True)
modal.Dict.from_name("d", create_if_missing=True)["key"] = {"a": 1}
queue = modal.Queue.from_name("q", create_if_missing=True)
queue.put_many([1, 2], partition="p"); queue.put("x")
volume = modal.Volume.from_name("v", create_if_missing=True)
with volume.batch_upload() as batch:
    batch.put_file(io.BytesIO(b"kept"), "/f")
call = modal.Function.from_name("kept", "read").spawn()
call.get(timeout=60)
app = modal.App.lookup("kept")
sandbox = modal.Sandbox.create("sleep", "infinity", app=app, name="one", timeout=600)
run = [sys.executable, "-m", "modal", "run", "--detach", "kept.py::spawns"]
said = subprocess.run(run, check=True, capture_output=True, text=True, env={**os.environ, "MODAL_LOGS_TIMEOUT": "1"})
detached = re.search(r"ap-\\w+", said.stdout)[0]
modal.Secret.from_dict({"OTHER": "forgotten"}).hydrate()
print(json.dumps({"call": call.object_id, "sandbox": sandbox.object_id, "detached": detached}))
sandbox.detach()
"""
AFTER = """
import json, modal, subprocess, sys
ids = json.loads(sys.argv[1])
listed = subprocess.run([sys.executable, "-m", "modal", "app", "list", "--json"], check=True, capture_output=True)
states = {app["app_id"]: app["state"] for app in json.loads(listed.stdout)}
def tried(work):
    try:
        return work()
    except modal.exception.NotFoundError:
        return "not found"
queue = modal.Queue.from_name("q")
print(json.dumps({
    "function": modal.Function.from_name("kept", "read").remote(),
    "class": modal.Cls.from_name("kept", "Counter")(start=4).next.remote(),
    "dict": modal.Dict.from_name("d")["key"],
    "queue": [queue.get(partition="p"), queue.get(partition="p"), queue.get()],
    "volume": b"".join(modal.Volume.from_name("v").read_file("f")).decode(),
    "call": tried(lambda: modal.FunctionCall.from_id(ids["call"]).get(timeout=5)),
    "sandbox": tried(lambda: modal.Sandbox.from_id(ids["sandbox"]).poll()),
    "named": tried(lambda: modal.Sandbox.from_name("kept", "one").object_id),
    "detached": states[ids["detached"]],
    "listed": [one.object_id for one in modal.Sandbox.list()],
}))
"""


def values(database: Path, change: str = "") -> list[str]:
    """The values of all secrets in a cloud's database, after a change to it."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(change)
        return sorted(env for (env,) in connection.execute("SELECT env FROM secrets"))


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, object]]:
    root = Path(tempfile.mkdtemp(prefix="workbench-restart-"))
    root.chmod(0o711)
    (root / "kept.py").write_text(APP)
    state = State(root / "state")

    def python(code: str, *arguments: str) -> dict[str, object]:
        env = {**os.environ, **daemon.start(state)[0].env()}
        done = warm.run("-c", code, *arguments, cwd=root, env=env)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    try:
        ids = python(BEFORE)
        assert daemon.stop(state)
        database = state.root / DATABASE
        values(database, "UPDATE objects SET created_at=1")
        values(database, "UPDATE secrets SET last_used_at=1")
        values(database, "DELETE FROM secret_owners")  # as an older build has left it
        after = python(AFTER, json.dumps(ids))
        wait_until(lambda: "forgotten" not in str(values(database)), "the secret that nobody uses is kept")
        yield {**after, "secrets": values(database)}
    finally:
        daemon.stop(state)
        shutil.rmtree(root)


def test_apps_classes_secrets_dicts_queues_and_volumes_survive_a_restart(seen: dict[str, object]) -> None:
    kept = {name: seen[name] for name in ("function", "class", "dict", "queue", "volume")}
    assert kept == {"function": "hush", "class": 5, "dict": {"a": 1}, "queue": [1, 2, "x"], "volume": "kept"}


def test_a_sandbox_that_ran_is_terminated_by_a_restart(seen: dict[str, object]) -> None:
    assert (seen["sandbox"], seen["named"], seen["listed"]) == (137, "not found", [])


def test_calls_do_not_survive_a_restart(seen: dict[str, object]) -> None:
    """On Modal results are kept for days."""
    assert seen["call"] == "not found"


def test_a_detached_app_whose_entrypoint_had_returned_ends_with_its_calls(seen: dict[str, object]) -> None:
    assert seen["detached"] == "stopped"


def test_a_secret_that_only_a_deployment_needs_survives_and_one_that_nothing_needs_is_deleted(
    seen: dict[str, object],
) -> None:
    assert seen["secrets"] == ['{"OTHER": "deployed"}', '{"WORD": "hush"}']
