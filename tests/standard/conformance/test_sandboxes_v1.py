"""The first family of sandbox RPCs through the stock SDK: the same sandboxes, asked for another way."""

from collections.abc import Callable, Iterator

import modal
import pytest

from workbench.local_cloud.process.state_directory import Running

Make = Callable[..., modal.Sandbox]


@pytest.fixture(autouse=True)
def _first_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("sandbox-v1-tests", create_if_missing=True)


@pytest.fixture
def make(app: modal.App) -> Iterator[Make]:
    made: list[modal.Sandbox] = []

    def create(*arguments: str, **options: object) -> modal.Sandbox:
        made.append(modal.Sandbox.create(*arguments, app=app, **{"timeout": 120, **options}))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.terminate(wait=True)


def test_a_program_in_a_sandbox_is_talked_to(make: Make) -> None:
    sandbox = make(env={"A": "1"})
    assert len(sandbox.object_id) == len("sb-") + 22
    process = sandbox.exec("sh", "-c", "read word; echo $word $A; exit 3")
    process.stdin.write("hello\n")
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == ("hello 1\n", 3)


def test_a_sandboxs_own_program_is_talked_to(make: Make) -> None:
    sandbox = make("sh", "-c", "cat; echo gone >&2; exit 5")
    for word in ("one\n", "zwei ü\n"):
        sandbox.stdin.write(word)
        sandbox.stdin.drain()
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    assert sandbox.stdout.read() == "one\nzwei ü\n"
    assert sandbox.stderr.read() == "gone\n"
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 5


def test_names_tags_and_lists(make: Make, app: modal.App) -> None:
    sandbox = make(name="first", tags={"colour": "red"})
    found = modal.Sandbox.from_name("sandbox-v1-tests", "first")
    assert found.object_id == sandbox.object_id
    assert found.get_tags() == {"colour": "red"}
    found.set_tags({"colour": "green"})
    assert [one.object_id for one in modal.Sandbox.list(app_id=app.app_id, tags={"colour": "green"})] == [
        sandbox.object_id
    ]


def test_each_family_finds_its_own_and_the_second_lists_both(
    make: Make, app: modal.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(name="old")
    monkeypatch.setenv("MODAL_SANDBOX_V2", "1")
    second = make(name="new")
    ids = {one.object_id for one in modal.Sandbox.list(app_id=app.app_id)}
    assert {first.object_id, second.object_id} <= ids
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")
    ids = {one.object_id for one in modal.Sandbox.list(app_id=app.app_id)}
    assert first.object_id in ids
    assert second.object_id not in ids
    with pytest.raises(modal.exception.NotFoundError):
        modal.Sandbox.from_name("sandbox-v1-tests", "new")


def test_a_sandbox_is_polled_and_terminated(make: Make) -> None:
    sandbox = make("sleep", "600")
    assert sandbox.poll() is None
    sandbox.terminate(wait=True)
    assert sandbox.poll() == 137


def test_ports_are_reached_and_snapshots_taken(make: Make, app: modal.App) -> None:
    sandbox = make(encrypted_ports=[8000])
    assert sandbox.tunnels()[8000].url.startswith("https://")
    assert sandbox.exec("sh", "-c", "echo kept > /root/note").wait() == 0
    second = make("cat", "/root/note", image=sandbox.snapshot_filesystem())
    assert second.stdout.read() == "kept\n"


@pytest.mark.parametrize(("option", "value"), [("gpu", "T4"), ("pty", True)], ids=["gpu", "pty"])
def test_what_is_not_here_is_refused_by_name(make: Make, option: str, value: object) -> None:
    with pytest.raises(modal.exception.Error, match=f"{option} is not implemented by the local cloud"):
        make(**{option: value})
