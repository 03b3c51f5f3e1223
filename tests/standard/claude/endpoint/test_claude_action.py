"""The headline job: a prompt becomes files, through the real CLI in a real sandbox, with the model's key outside it."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import modal
import pytest

from modal_app.contract.events import DoneEvent
from tests.conftest import live_sandboxes, wait_until
from tests.support.claude.endpoint import APP, KEY, STALL_S, Claude, done, failed, messages, said
from tests.support.commands import cli
from tests.support.processes import with_command
from workbench import Project, Recording, RequestRefusedError, Run, Workbench
from workbench.local_cloud.process.state_directory import Running
from workbench.machine import private_files

_ALL_ATTEMPTS = 6  # the owner's three to write the record, and what it writes of itself meanwhile
PLANTED = "a-word-that-the-job-can-see"  # so that a look that finds nothing is known to have looked
pytestmark = pytest.mark.timeout(300)  # the first test waits for the image

# Looks at whatever a job can see. It is told what to look for backwards, so that it does not find itself.
LOOK = """
import json, os, pathlib, socket, time, urllib.error, urllib.request

wanted = [word[::-1] for word in json.loads(pathlib.Path("/workspace/wanted.json").read_text())]
found = {"token": os.environ["ANTHROPIC_API_KEY"], "url": os.environ["ANTHROPIC_BASE_URL"], "seen": [], "read": 0}

def look(name, data):
    found["read"] += 1
    found["seen"] += [f"{name}: {number}" for number, word in enumerate(wanted) if word.encode() in data]

for top in ("/proc", "/workspace", "/tmp", "/root", "/home", "/etc", "/run", "/var", "/global", "/dev/shm", "/mnt"):
    for path, directories, files in os.walk(top):
        directories[:] = [name for name in directories if name not in ("fd", "fdinfo", "task", "map_files", "net")]
        for file in files:
            name = os.path.join(path, file)
            if top == "/proc" and file not in ("environ", "cmdline", "comm", "mountinfo"):
                continue
            try:
                if os.path.isfile(name):
                    with open(name, "rb") as opened:
                        look(name, opened.read(4_000_000))
            except OSError:
                pass
look("os.environ", repr(dict(os.environ)).encode())

def ask(token):
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hello from inside"}]}
    request = urllib.request.Request(found["url"] + "/v1/messages", json.dumps(body).encode())
    request.add_header("x-api-key", token)
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

def reaches(host, port):
    try:
        socket.create_connection((host, port), 3).close()
        return True
    except OSError:
        return False

others = json.loads(pathlib.Path("/workspace/others.json").read_text())
found["own"] = ask(found["token"])
found["of_another_run"] = ask(others["token"][::-1])
found["forged"] = ask(found["token"][:-2] + "AA")
found["reached"] = [address for address in others["addresses"] if reaches(*address)]
found["uid"] = os.getuid()
pathlib.Path("/workspace/found.json").write_text(json.dumps(found))
"""


def test_a_prompt_becomes_committed_files_and_its_session_goes_on(claude: Claude, project: Project) -> None:
    job = claude.run(project, "write a page")
    end = done(job)
    volume = claude.wb.volume(project)
    assert volume.read_text("index.html") == "<h1>hello</h1>\n"
    assert volume.read_text("style.css") == "h1 { color: teal }\n"
    assert end.commit is not None
    assert end.commit.committed
    assert end.sandbox is not None
    assert (end.sandbox.uid, end.sandbox.terminated) == (1000, True)
    assert said(job) == "I write a page.Both files are there."
    assert {"system", "assistant", "user", "result"} <= {message["type"] for message in messages(job)}
    assert isinstance(end.result, dict)
    assert end.result["text"] == "Both files are there."
    usage = end.usage
    assert usage is not None
    assert usage.session_id == end.result["session_id"]
    assert usage.turns >= 2
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    again = claude.run(project, "what did you write?", resume=usage.session_id)
    assert said(again) == "I wrote index.html and style.css before."
    assert done(again).usage is not None
    assert done(again).usage.session_id == usage.session_id  # type: ignore[union-attr]  # asserted above
    for op, fields in (("init", {}), ("commit", {"message": "all"})):
        claude.wb.launch(project, "git", op=op, **fields).wait(60)
    tracked = (
        "import subprocess; print(subprocess.check_output(['git', '-c', 'safe.directory=*', 'ls-files'], text=True))"
    )
    listing = claude.wb.launch(project, "python", code=tracked)
    listing.wait(60)
    assert listing.text().split() == ["index.html", "style.css"], "sessions are no work of the job"


def test_a_body_with_a_prompt_is_a_whole_request_and_words_arrive_before_their_message_is_whole(
    claude: Claude, project: Project
) -> None:
    endpoint = claude.wb.endpoint
    headers = {"X-Modal-Secret": endpoint.secret.get_secret_value()}
    body = {"user_id": project.user_id, "project_id": project.project_id, "prompt": "write a page"}
    with (
        httpx.Client(headers=headers, timeout=100, trust_env=False) as web,
        web.stream("POST", f"{endpoint.url}/generate", json=body) as answer,
    ):
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    heard = [event for event in events if event["type"] == "stream"]
    whole = next(at for at, event in enumerate(heard) if event.get("message", {}).get("type") == "assistant")
    before = [event for event in heard[:whole] if event["text"]]
    assert "".join(event["text"] for event in before) == "I write a page."
    assert all(event["message_id"] for event in before)


def test_each_run_of_a_session_tells_what_it_has_used_itself(claude: Claude, project: Project) -> None:
    """Three equal turns cost the same, three times."""
    first = done(claude.run(project, "count me")).usage
    assert first is not None
    second = done(claude.run(project, "once more", resume=first.session_id)).usage
    third = done(claude.run(project, "and once more", resume=first.session_id)).usage
    fork = done(claude.run(project, "another way", resume=first.session_id, fork=True)).usage
    assert second == third == first
    assert fork is not None
    assert fork.model_copy(update={"session_id": first.session_id}) == first
    assert (first.input_tokens, first.output_tokens, first.turns) == (1000, 100, 1)
    assert first.cost_usd > 0


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("/help", "As you say."), ("/clear all", "As you say."), ("an answer and a thought", "The answer.")],
)
def test_the_answer_of_the_model_is_in_the_result(prompt: str, answer: str, claude: Claude, project: Project) -> None:
    result = done(claude.run(project, prompt)).result
    assert isinstance(result, dict)
    assert result["text"] == answer


def test_structured_output_is_in_the_result(claude: Claude, project: Project) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    result = done(claude.run(project, "an answer as data", json_schema=schema)).result
    assert isinstance(result, dict)
    assert result["structured_output"] == {"answer": 42}


def test_a_job_that_shows_no_life_ends_with_all_that_it_has_started(claude: Claude, project: Project) -> None:
    """Each command of the CLI's Bash tool leads a session of its own: no kill of the CLI's group reaches it."""
    job = claude.wb.launch(project, "claude", prompt="a command that never ends", allowed_tools=["Bash"])
    wait_until(lambda: bool(with_command("sleep 4321")), "the command runs")
    job.wait(100)
    assert with_command("sleep 4321") == [], "nothing survives"
    end = failed(job)
    assert (end.code, end.recoverable) == ("stalled", True)
    assert end.timings is not None
    assert end.timings.run_ms is not None
    assert end.timings.run_ms >= STALL_S * 1000


def test_a_job_takes_a_sandbox_made_ahead_only_when_that_reaches_what_it_must(claude: Claude, project: Project) -> None:
    """One without network is of no use to it, and one that reaches the model is not for other jobs."""
    made = [claude.wb.launch(project, "prewarm").wait(60)]
    assert not warm(claude.run(project, "write a page"))
    made += [claude.wb.launch(project, "prewarm", with_model=True).wait(60) for _ in range(2)]
    assert [end.result["new"] for end in made if isinstance(end, DoneEvent) and isinstance(end.result, dict)] == [
        True,
        True,
        False,
    ]
    job = claude.run(project, "write a page")
    assert warm(job)
    assert said(job) == "I write a page.Both files are there."
    assert claude.wb.launch(project, "prewarm", with_model=True).wait(60).type == "done"
    other = claude.wb.launch(project, "python", code="print(1)")
    other.wait(60)
    assert not warm(other)
    assert live_sandboxes(APP) == []


def warm(job: Run) -> bool:
    """Whether a job's sandbox was made ahead."""
    end = done(job)
    assert end.sandbox is not None
    return end.sandbox.warm


def test_a_job_that_is_cancelled_ends_with_its_sandbox(claude: Claude, project: Project) -> None:
    job = claude.wb.launch(project, "claude", prompt="a command that never ends", allowed_tools=["Bash"])
    wait_until(lambda: any(message["type"] == "assistant" for message in messages(job)), "the CLI works")
    job.cancel()
    end = failed(job)
    assert end.code == "cancelled"
    assert end.usage is not None, "what it had used is told, however it ends"
    assert end.usage.input_tokens > 1000
    assert end.usage.session_id is not None


def test_nothing_of_value_is_in_the_sandbox_and_only_the_gateway_is_reached(
    claude: Claude, project: Project, cloud: Running
) -> None:
    """Every secret of the platform is looked for, in the environment, the files and the processes that a job sees."""
    another = Project.new()
    look_around(claude, another, cloud, token="none yet")
    first = json.loads(claude.wb.volume(another).read_text("found.json"))
    found, secrets = look_around(claude, project, cloud, token=first["token"])
    assert found["seen"] == [f"/workspace/planted.txt: {len(secrets)}"], "it finds what is there, and nothing else is"
    assert found["read"] > 10
    assert found["uid"] == 1000
    assert found["own"] == 200, "its own token opens the gateway while it runs"
    assert (found["of_another_run"], found["forged"]) == (401, 401)
    assert found["reached"] == []
    assert found["token"] != first["token"]
    assert found["url"] == claude.gateway
    assert not any(secret in json.dumps(found) for secret in secrets)
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hello from inside"}]}
    time.sleep(1.1)  # what is known of a run counts for a second
    answer = httpx.post(
        f"{claude.gateway}/v1/messages", json=body, headers={"x-api-key": found["token"]}, timeout=20, trust_env=False
    )
    assert answer.status_code == 401, "a token dies with its run"


def look_around(claude: Claude, project: Project, cloud: Running, *, token: str) -> tuple[dict[str, Any], list[str]]:
    """What a job finds, and the secrets that it looked for."""
    private = claude.wb.target.private
    secrets = [KEY, cloud.token_secret, cloud.token_id]
    secrets += [str(private_files.read(private / f"local-{name}.json")["secret"]) for name in (APP, f"{APP}-model")]
    secrets += [token] if token.startswith("wb1.") else []
    urls = (claude.wb.endpoint.url, claude.model_url, cloud.url, cloud.http_url)
    addresses = [["127.0.0.1", urlsplit(url).port] for url in urls]
    addresses += [[host, port] for host in ("127.0.0.2", "1.1.1.1", "169.254.169.254") for port in (80, 443)]
    others = {"token": token[::-1], "addresses": addresses}
    files = [
        {"path": "look.py", "content": LOOK},
        {"path": "planted.txt", "content": PLANTED},
        {"path": "wanted.json", "content": json.dumps([word[::-1] for word in (*secrets, PLANTED)])},
        {"path": "others.json", "content": json.dumps(others)},
    ]
    claude.wb.launch(project, "files", op="write", files=files).wait(60)
    done(claude.run(project, "look around", allowed_tools=["Bash"]))
    return json.loads(claude.wb.volume(project).read_text("found.json")), secrets


def test_an_endpoint_without_a_model_says_so_before_it_starts_anything(wb: Workbench, project: Project) -> None:
    job = wb.launch(project, "claude", prompt="write a page")
    with pytest.raises(RequestRefusedError, match="has no model: set WORKBENCH_MODEL_UPSTREAM_KEY") as caught:
        job.wait(60)
    assert (caught.value.status, str(caught.value.code)) == (502, "model_error")


def test_a_recorded_run_is_executed_again_without_the_model(claude: Claude, project: Project, tmp_path: Path) -> None:
    """The same files in another project, by what the recording says, and nothing of the model's key in it."""
    job = claude.run(project, "write a page")
    path, app = tmp_path / "run.zip", ["--app-name", APP]
    exported = cli("runs", "export", job.run_id, str(path), *app)
    assert exported.returncode == 0, exported.stderr
    assert "2 exchanges with the model" in exported.stdout
    recording = Recording.load(path)
    assert recording.events == job.events
    assert [one.whole for one in recording.exchanges] == [True, True]
    assert not any(secret in repr(recording.exchanges) for secret in (KEY, "wb1."))

    last = recording.exchanges[-1]
    changed = replace(
        recording,
        exchanges=(
            recording.exchanges[0],
            last.model_copy(update={"answer": last.answer.replace("there", "recorded")}),
        ),
    )
    other = Project.new()
    again = claude.wb.replay(changed, project=other)
    again.wait(100)
    done(again)
    assert said(again) == "I write a page.Both files are recorded."
    for name in ("index.html", "style.css"):
        assert claude.wb.volume(other).read(name) == claude.wb.volume(project).read(name)
    assert len(Recording.of(claude.wb.runs.get(again.run_id, wait_s=30)).exchanges) == 2

    assert recording.request is not None
    departing = replace(recording, request=recording.request.model_copy(update={"prompt": "write\x1b a book"}))
    departing.save(path)
    replayed = cli("runs", "replay", str(path), *app)
    assert replayed.returncode == 1
    assert "departs from exchange 1 of the recording at messages[0].content[0].text: " in replayed.stdout
    assert "recorded 'write a page', came 'write\\x1b a book'" in replayed.stdout
    assert '-          "text": "write a page"' in replayed.stderr
    assert "\x1b" not in replayed.stdout + replayed.stderr


def test_what_was_said_with_the_model_is_kept_until_the_record_knows_its_archive(
    claude: Claude, project: Project, tmp_path: Path
) -> None:
    """The record cannot be written after the archive was: a sweep writes the archive again, with everything in it."""
    faults = claude.wb.faults

    def fired(rule_id: str) -> int:
        return next(one.injected for one in faults.rules() if one.rule_id == rule_id)

    def archived() -> int:
        """How often an archive was written: what is committed and is no project's."""
        return fired(of_all) - fired(of_projects)

    def swept() -> bool:
        modal.Function.from_name(APP, "sweep").remote()
        return archived() > 1

    with (
        faults.injected(at="commit", app=APP, delay_s=1.5) as of_all,
        faults.injected(at="commit", app=APP, path="projects/*", delay_s=0.001) as of_projects,
    ):
        job = claude.run(project, "write a page")
        done(job)
        wait_until(lambda: archived() > 0, "the archive was not written")
        with faults.injected(rpc="DictUpdate", app=APP, status="FAILED_PRECONDITION") as refused:
            wait_until(lambda: fired(refused) >= _ALL_ATTEMPTS, "nothing was written to the record")
        wait_until(swept, "the archive was not written again")
    wait_until(lambda: job.run_id in [one.run_id for one in claude.wb.runs.list()], "the run was not archived")
    path = tmp_path / "run.zip"
    assert cli("runs", "export", job.run_id, str(path), "--app-name", APP).returncode == 0
    assert len(Recording.load(path).exchanges) == 2


def test_python_that_the_model_starts_prints_at_once(claude: Claude, project: Project) -> None:
    done(claude.run(project, "environment", allowed_tools=["Bash"]))
    assert claude.wb.volume(project).read_text("unbuffered").strip() == "1"


def test_a_session_that_no_longer_fits_has_a_name_of_its_own(claude: Claude, project: Project) -> None:
    """It is full whoever resumes it, and the project is not stuck: a new session begins in it."""
    session = done(claude.run(project, "grow")).result["session_id"]
    for _ in range(2):
        end = failed(claude.run(project, "grow", resume=session))
        assert (end.code, end.recoverable) == ("context_full", False)
        assert f"session {session} is full, and without `resume`" in end.message
    done(claude.run(project, "grow"))
