"""`Sandbox.filesystem` through the stock SDK: files go in and out whole, and every failure has its own exception."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import modal
import pytest
from modal.exception import (
    NotFoundError,
    SandboxFilesystemDirectoryNotEmptyError,
    SandboxFilesystemError,
    SandboxFilesystemFileTooLargeError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemPathAlreadyExistsError,
    SandboxFilesystemPermissionError,
)
from modal.types import FileType, FileWatchEvent, FileWatchEventType

from workbench.local_cloud.process.state_directory import Running

GIBIBYTE = 1024**3


@pytest.fixture(scope="module")
def sandbox(cloud: Running) -> Iterator[modal.Sandbox]:
    app = modal.App.lookup("filesystem-tests", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=600)
    yield sandbox
    sandbox.terminate()


@pytest.fixture
def here(sandbox: modal.Sandbox, request: pytest.FixtureRequest) -> str:
    """A directory of the test's own inside the sandbox."""
    path = f"/tmp/{request.node.name.translate(str.maketrans('[]/ ', '____'))}"
    sandbox.filesystem.make_directory(path)
    return path


def shell(sandbox: modal.Sandbox, script: str) -> str:
    process = sandbox.exec("sh", "-ec", script)
    said = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    return said


@pytest.mark.parametrize("size", [0, 1, 3 * 1024 * 1024 + 7])
def test_bytes_go_in_and_out_whole(sandbox: modal.Sandbox, here: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sandbox.filesystem.write_bytes(data, f"{here}/deep/down/file")
    assert sandbox.filesystem.read_bytes(f"{here}/deep/down/file") == data


def test_text_is_utf8(sandbox: modal.Sandbox, here: str) -> None:
    sandbox.filesystem.write_text("grüße\n", f"{here}/täxt")
    assert sandbox.filesystem.read_text(f"{here}/täxt") == "grüße\n"
    assert shell(sandbox, f"cat {here}/täxt") == "grüße\n"


def test_a_shorter_text_replaces_a_longer_one(sandbox: modal.Sandbox, here: str) -> None:
    sandbox.filesystem.write_text("a long text", f"{here}/file")
    sandbox.filesystem.write_text("short", f"{here}/file")
    assert sandbox.filesystem.read_text(f"{here}/file") == "short"
    assert shell(sandbox, f"ls -A {here}") == "file\n"


def test_files_are_copied_both_ways(sandbox: modal.Sandbox, here: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(b"\0\xff" * 500_000)
    sandbox.filesystem.copy_from_local(source, f"{here}/copy")
    sandbox.filesystem.copy_to_local(f"{here}/copy", target)
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_that_fails_leaves_no_local_file(sandbox: modal.Sandbox, here: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxFilesystemNotFoundError):
        sandbox.filesystem.copy_to_local(f"{here}/none", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_stat_tells_all_of_a_file_a_directory_and_a_link(sandbox: modal.Sandbox, here: str) -> None:
    shell(sandbox, f"cd {here}; printf 12345 > f; chmod 640 f; mkdir d; ln -s nowhere l; touch -d @1700000000 f")
    file = sandbox.filesystem.stat(f"{here}/f")
    assert (file.name, file.path, file.type, file.size) == ("f", f"{here}/f", FileType.FILE, 5)
    assert (file.permissions, file.mode, file.modified_time) == ("0640", 0o100640, 1_700_000_000)
    user, group = shell(sandbox, "id -un; id -gn").split()
    assert (file.owner, file.group, file.symlink_target) == (user, group, None)
    assert sandbox.filesystem.stat(f"{here}/d").is_dir()
    link = sandbox.filesystem.stat(f"{here}/l")
    assert (link.type, link.symlink_target) == (FileType.SYMLINK, "nowhere")
    assert sandbox.filesystem.stat("/").name == ""


def test_a_listing_is_sorted_and_complete(sandbox: modal.Sandbox, here: str) -> None:
    shell(sandbox, f"cd {here}; mkdir d; touch b .hidden 'a b'; ln -s b c; mkfifo pipe; echo x > d/inner")
    entries = sandbox.filesystem.list_files(here)
    assert [(entry.name, entry.type.value) for entry in entries] == [
        (".hidden", "file"),
        ("a b", "file"),
        ("b", "file"),
        ("c", "symlink"),
        ("d", "directory"),
        ("pipe", "file"),
    ]
    assert [entry.path for entry in entries if entry.is_dir()] == [f"{here}/d"]


def test_a_name_that_is_no_utf8_can_be_listed_and_read(sandbox: modal.Sandbox, here: str) -> None:
    sandbox.exec("python3", "-c", f"open(b'{here}/\\xff', 'w').write('odd')").wait()
    (entry,) = sandbox.filesystem.list_files(here)
    assert sandbox.filesystem.read_text(entry.path) == "odd"


def test_directories_are_made_and_removed(sandbox: modal.Sandbox, here: str) -> None:
    files = sandbox.filesystem
    files.make_directory(f"{here}/a/b")
    files.make_directory(f"{here}/a/b/")
    files.make_directory(f"{here}/plain", create_parents=False)
    with pytest.raises(SandboxFilesystemDirectoryNotEmptyError):
        files.remove(f"{here}/a")
    files.remove(f"{here}/plain")
    files.remove(f"{here}/a", recursive=True)
    assert files.list_files(here) == []


def test_a_link_is_removed_and_not_what_it_points_to(sandbox: modal.Sandbox, here: str) -> None:
    shell(sandbox, f"cd {here}; mkdir kept; echo x > kept/f; ln -s kept link; mkdir d; ln -s ../kept d/link")
    sandbox.filesystem.remove(f"{here}/link", recursive=True)
    sandbox.filesystem.remove(f"{here}/d", recursive=True)
    assert sandbox.filesystem.read_text(f"{here}/kept/f") == "x\n"


def test_a_write_replaces_a_link_and_leaves_its_target(sandbox: modal.Sandbox, here: str) -> None:
    """As on Modal: the new file takes the name, whatever had it."""
    shell(sandbox, f"cd {here}; echo old > target; ln -s target link")
    sandbox.filesystem.write_text("new", f"{here}/link")
    assert shell(sandbox, f"cd {here}; cat target link; test -f link") == "old\nnew"
    assert sandbox.filesystem.stat(f"{here}/link").is_file()


def test_a_path_goes_through_links_to_directories(sandbox: modal.Sandbox, here: str) -> None:
    shell(sandbox, f"cd {here}; mkdir d; ln -s d link")
    sandbox.filesystem.write_text("through", f"{here}/link/f")
    assert sandbox.filesystem.read_text(f"{here}/d/f") == "through"


Call = Callable[[modal.Sandbox, str], object]

FAILURES: list[tuple[str, Call, type[Exception]]] = [
    ("read none", lambda s, p: s.filesystem.read_bytes(f"{p}/none"), SandboxFilesystemNotFoundError),
    ("read directory", lambda s, p: s.filesystem.read_bytes(f"{p}/d"), SandboxFilesystemIsADirectoryError),
    ("read private", lambda s, p: s.filesystem.read_text("/proc/1/environ"), SandboxFilesystemPermissionError),
    ("read pipe", lambda s, p: s.filesystem.read_text(f"{p}/pipe"), SandboxFilesystemError),
    ("read below file", lambda s, p: s.filesystem.read_text(f"{p}/f/x"), SandboxFilesystemError),
    ("read loop", lambda s, p: s.filesystem.read_text(f"{p}/loop"), SandboxFilesystemError),
    ("list none", lambda s, p: s.filesystem.list_files(f"{p}/none"), SandboxFilesystemNotFoundError),
    ("list file", lambda s, p: s.filesystem.list_files(f"{p}/f"), SandboxFilesystemNotADirectoryError),
    ("list private", lambda s, p: s.filesystem.list_files("/proc/1/root"), SandboxFilesystemPermissionError),
    ("stat none", lambda s, p: s.filesystem.stat(f"{p}/none"), SandboxFilesystemNotFoundError),
    ("stat below file", lambda s, p: s.filesystem.stat(f"{p}/f/x"), SandboxFilesystemNotADirectoryError),
    ("stat private", lambda s, p: s.filesystem.stat("/proc/1/root/x"), SandboxFilesystemPermissionError),
    ("write directory", lambda s, p: s.filesystem.write_text("x", f"{p}/d"), SandboxFilesystemIsADirectoryError),
    ("write slash", lambda s, p: s.filesystem.write_text("x", f"{p}/new/"), SandboxFilesystemIsADirectoryError),
    ("write below file", lambda s, p: s.filesystem.write_text("x", f"{p}/f/x"), SandboxFilesystemNotADirectoryError),
    ("write system", lambda s, p: s.filesystem.write_text("x", "/dev/x"), SandboxFilesystemPermissionError),
    ("make over file", lambda s, p: s.filesystem.make_directory(f"{p}/f"), SandboxFilesystemPathAlreadyExistsError),
    ("make below file", lambda s, p: s.filesystem.make_directory(f"{p}/f/x"), SandboxFilesystemNotADirectoryError),
    (
        "make again",
        lambda s, p: s.filesystem.make_directory(f"{p}/d", create_parents=False),
        SandboxFilesystemPathAlreadyExistsError,
    ),
    (
        "make orphan",
        lambda s, p: s.filesystem.make_directory(f"{p}/x/y", create_parents=False),
        SandboxFilesystemNotFoundError,
    ),
    ("remove none", lambda s, p: s.filesystem.remove(f"{p}/none"), SandboxFilesystemNotFoundError),
    ("remove system", lambda s, p: s.filesystem.remove("/dev/pts", recursive=True), SandboxFilesystemPermissionError),
    ("watch none", lambda s, p: list(s.filesystem.watch(f"{p}/none")), SandboxFilesystemNotFoundError),
    ("nul", lambda s, p: s.filesystem.read_text(f"{p}/\0"), SandboxFilesystemError),
]


@pytest.fixture(scope="module")
def prepared(sandbox: modal.Sandbox) -> str:
    shell(sandbox, "mkdir /tmp/failures; cd /tmp/failures; echo x > f; mkdir d; mkfifo pipe; ln -s loop loop")
    return "/tmp/failures"


@pytest.mark.parametrize(
    ("call", "expected"), [(call, e) for _, call, e in FAILURES], ids=[name for name, *_ in FAILURES]
)
def test_each_failure_has_its_exception(
    sandbox: modal.Sandbox, prepared: str, call: Call, expected: type[Exception]
) -> None:
    with pytest.raises(SandboxFilesystemError) as raised:
        call(sandbox, prepared)
    assert type(raised.value) is expected
    assert "exit code" not in str(raised.value)  # the cause is told


def test_the_user_of_an_image_is_kept_out_of_what_is_not_theirs(cloud: Running) -> None:
    app = modal.App.lookup("filesystem-tests", create_if_missing=True)
    image = modal.Image.debian_slim().dockerfile_commands("RUN useradd -m me", "USER me", "WORKDIR /home/me")
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=120)
    files = sandbox.filesystem
    try:
        shell(sandbox, "mkdir closed; touch locked; chmod 0 closed locked")
        for refused in (
            lambda: files.read_text("/home/me/locked"),
            lambda: files.list_files("/home/me/closed"),
            lambda: files.stat("/home/me/closed/x"),
            lambda: files.write_text("x", "/home/me/closed/x"),
            lambda: files.write_text("x", "/usr/x"),
            lambda: files.remove("/usr/bin", recursive=True),
        ):
            with pytest.raises(SandboxFilesystemPermissionError):
                refused()
    finally:
        sandbox.terminate()


def test_a_file_of_six_gibibytes_is_refused_by_its_size(sandbox: modal.Sandbox, here: str) -> None:
    """Sparse: nothing of it is stored, and nothing of it is sent. Modal's limit is 5 GiB."""
    shell(sandbox, f"truncate -s 6G {here}/huge")
    with pytest.raises(SandboxFilesystemFileTooLargeError, match=f"{6 * GIBIBYTE} bytes"):
        sandbox.filesystem.read_bytes(f"{here}/huge")


def test_a_write_into_a_full_disk_keeps_the_old_file(cloud: Running) -> None:
    app = modal.App.lookup("filesystem-tests", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=120)
    try:
        sandbox.filesystem.write_text("old", "/dev/shm/file")
        free = shell(sandbox, "stat -f -c '%a %S' /dev/shm").split()
        shell(sandbox, f"dd if=/dev/zero of=/dev/shm/fill bs=1M count={int(free[0]) * int(free[1]) // 2**20 - 2} 2>&1")
        with pytest.raises(SandboxFilesystemError, match="No space"):
            sandbox.filesystem.write_bytes(b"x" * 8 * 2**20, "/dev/shm/file")
        assert sandbox.filesystem.read_text("/dev/shm/file") == "old"
        assert [entry.name for entry in sandbox.filesystem.list_files("/dev/shm")] == ["file", "fill"]
    finally:
        sandbox.terminate()


def test_what_is_written_to_a_volume_is_committed(cloud: Running) -> None:
    app = modal.App.lookup("filesystem-tests", create_if_missing=True)
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        sandbox.filesystem.write_text("kept", "/v/deep/file")
        sandbox.terminate(wait=True)
        assert b"".join(volume.read_file("deep/file")) == b"kept"


def test_files_of_a_sandbox_that_has_ended_are_not_there(cloud: Running) -> None:
    app = modal.App.lookup("filesystem-tests", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    sandbox.terminate(wait=True)
    with pytest.raises((NotFoundError, SandboxFilesystemError)):
        modal.Sandbox.from_id(sandbox.object_id).filesystem.read_text("/etc/passwd")


@pytest.mark.parametrize(
    "argument", ["", "{}", "[]", "null", '{"ReadFile": {}}', '{"No": {}}', '{"ReadFile": {"path": 1e999}}', "{" * 9999]
)
def test_nonsense_is_answered_with_an_error(sandbox: modal.Sandbox, argument: str) -> None:
    process = sandbox.exec("/__modal/.bin/modal-sandbox-fs-tools", argument)
    assert process.wait() == 1
    assert set(json.loads(process.stderr.read())) == {"error_kind", "message"}


# ---- watch


class Watched:
    """The events of one watch, gathered in a thread until `enough` says so."""

    def __init__(self, events: Iterator[FileWatchEvent], enough: Callable[[list[FileWatchEvent]], bool]) -> None:
        self.seen: list[FileWatchEvent] = []
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._gather, args=(events, enough))
        self._thread.start()

    def _gather(self, events: Iterator[FileWatchEvent], enough: Callable[[list[FileWatchEvent]], bool]) -> None:
        try:
            for event in events:
                self.seen.append(event)
                if enough(self.seen):
                    return
        finally:
            self.done.set()

    def result(self) -> list[FileWatchEvent]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.seen


def of(events: list[FileWatchEvent], path: str) -> list[FileWatchEventType]:
    return [event.type for event in events if path in event.paths]


READY = "/ready"  # is made again and again until the watch tells: from then on it sees everything


def watched(sandbox: modal.Sandbox, here: str, script: str, **options: object) -> list[FileWatchEvent]:
    """What a watch tells of a script, between the first sign that it watches and a last one."""
    events = sandbox.filesystem.watch(here, timeout=60, **options)  # type: ignore[arg-type]  # passed on
    watch = Watched(iter(events), lambda seen: bool(of(seen, f"{here}/last")))
    ready = f"until test -e {here}/seen; do rm -f {here}/ready; touch {here}/ready; sleep 0.05; done"
    process = sandbox.exec("sh", "-ec", f"{ready}; cd {here}; {script}; touch last")
    while not watch.seen and not watch.done.wait(0.02):
        pass
    sandbox.filesystem.write_text("", f"{here}/seen")
    seen = watch.result()
    assert process.wait() == 0, process.stderr.read()
    return seen


def test_a_watch_tells_what_is_made_changed_renamed_and_removed(sandbox: modal.Sandbox, here: str) -> None:
    kinds = FileWatchEventType
    seen = watched(sandbox, here, "mkdir d; echo 1 > f; echo 2 >> f; mv f g; rm g; echo x > d/unseen")
    assert of(seen, f"{here}/f")[0] is kinds.Create
    assert set(of(seen, f"{here}/f")[1:]) == {kinds.Modify}
    assert of(seen, f"{here}/g") == [kinds.Modify, kinds.Remove]  # a rename counts as a change
    assert of(seen, f"{here}/d") == [kinds.Create]
    assert of(seen, f"{here}/d/unseen") == []


def test_a_recursive_watch_sees_into_new_and_renamed_directories(sandbox: modal.Sandbox, here: str) -> None:
    kinds = FileWatchEventType
    script = "mkdir -p a/b/c; echo 1 > a/b/c/f; sleep 0.3; mv a z; sleep 0.3; echo 1 > z/b/c/g; rm -r z"
    seen = watched(sandbox, here, script, recursive=True)
    for path in ("a/b", "a/b/c", "a/b/c/f"):
        assert of(seen, f"{here}/{path}").count(kinds.Create) == 1, path
    assert of(seen, f"{here}/z")[0] is kinds.Modify
    assert of(seen, f"{here}/z/b/c/g")[0] is kinds.Create
    assert of(seen, f"{here}/z/b/c/g")[-1] is kinds.Remove


def test_a_filter_lets_through_what_was_asked_for(sandbox: modal.Sandbox, here: str) -> None:
    kinds = FileWatchEventType
    seen = watched(sandbox, here, "echo 1 > f; mv f g; rm g", filter=[kinds.Create])
    assert {event.type for event in seen} == {kinds.Create}
    assert of(seen, f"{here}/g") == []


def test_a_file_is_watched_across_its_replacement(sandbox: modal.Sandbox, here: str) -> None:
    sandbox.filesystem.write_text("1", f"{here}/file")
    events = sandbox.filesystem.watch(f"{here}/file", timeout=60)
    watch = Watched(iter(events), lambda seen: len(seen) >= 3)
    while not watch.done.wait(0.1):
        sandbox.filesystem.write_text("2", f"{here}/file")
        sandbox.filesystem.write_text("2", f"{here}/other")
    assert {path for event in watch.result() for path in event.paths if "tmp-" not in path} == {f"{here}/file"}


def test_a_watch_follows_a_link_and_tells_paths_of_its_target(sandbox: modal.Sandbox, here: str) -> None:
    shell(sandbox, f"cd {here}; mkdir d; ln -s d link")
    watch = Watched(iter(sandbox.filesystem.watch(f"{here}/link", timeout=60)), lambda seen: True)
    while not watch.done.wait(0.1):
        sandbox.exec("touch", f"{here}/d/f").wait()
    assert watch.result()[0].paths == [f"{here}/d/f"]


def test_a_watch_ends_at_its_timeout_without_an_error(sandbox: modal.Sandbox, here: str) -> None:
    assert list(sandbox.filesystem.watch(here, timeout=1)) == []


def test_a_watch_that_is_left_ends_in_the_sandbox(sandbox: modal.Sandbox, here: str) -> None:
    runs = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q \"[f]s-watch.*$0\""  # which does not find itself
    word, left = here.rsplit("/", 1)[1][:20], threading.Event()
    watch = Watched(iter(sandbox.filesystem.watch(here)), lambda seen: left.is_set())
    while not watch.done.wait(0.1):
        sandbox.exec("touch", f"{here}/f").wait()
        if watch.seen and not left.is_set():
            assert sandbox.exec("sh", "-c", runs, word).wait() == 0
            left.set()
    watch.result()
    script = f"for n in $(seq 300); do {runs} || exit 0; sleep 0.1; done; exit 1"
    assert sandbox.exec("sh", "-c", script, word).wait() == 0
