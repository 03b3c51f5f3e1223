"""Sandboxes through the stock SDK."""

import io
import time
from collections.abc import Iterator
from typing import Any

import modal
import pytest
from modal.stream_type import StreamType
from modal_proto import api_pb2

from tests.conftest import wait_until
from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("sandbox-tests", create_if_missing=True)


@pytest.fixture
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create(app=app, timeout=120)
    yield sandbox
    sandbox.terminate()


def test_output_and_exit_code_come_back(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (process.stdout.read(), process.stderr.read(), process.wait()) == ("out\n", "err\n", 3)


def test_stdin_reaches_the_program(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("cat")
    process.stdin.write("one\n")
    process.stdin.drain()
    process.stdin.write("two\n")
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == ("one\ntwo\n", 0)


def test_large_output_is_byte_exact(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x", text=False)
    assert process.stdout.read() == b"x" * 5_000_000
    assert process.wait() == 0


def test_output_that_nobody_wants_is_dropped_and_holds_nobody_up(sandbox: modal.Sandbox) -> None:
    script = "head -c 200000000 /dev/zero; echo said >&2"  # more than is kept for a reader that may come
    process = sandbox.exec("sh", "-c", script, stdout=StreamType.DEVNULL)
    assert (process.wait(), process.stderr.read()) == (0, "said\n")


def test_a_program_that_is_not_there_fails_as_in_a_shell(sandbox: modal.Sandbox) -> None:
    assert sandbox.exec("no-such-program").wait() == 127


def test_a_timeout_of_an_exec_ends_the_program(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("sh", "-c", "sleep 600", timeout=1)
    assert process.wait() == -1  # by the client's own clock, which may be a moment ahead of ours
    programs = ("sh", "-c", "cat /proc/[0-9]*/comm")
    wait_until(lambda: "sleep" not in sandbox.exec(*programs).stdout.read(), "the program outlived its timeout")


def test_environment_and_working_directory(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60, env={"A": "1"}, secrets=[modal.Secret.from_dict({"B": "2"})])
    try:
        process = sandbox.exec("sh", "-c", "echo $A$B; pwd", workdir="/tmp")
        assert process.stdout.read() == "12\n/tmp\n"
    finally:
        sandbox.terminate()


def test_programs_know_their_sandbox_and_no_secret_can_tell_them_another(app: modal.App) -> None:
    """The same holds in a sandbox that is made of a snapshot: it has ids of its own."""
    names = ("MODAL_SANDBOX_ID", "MODAL_TASK_ID", "MODAL_IMAGE_ID", "MODAL_REGION", "MODAL_CLOUD_PROVIDER")
    command = ("sh", "-c", f"echo {' '.join(f'${name}' for name in names)}")
    forged = modal.Secret.from_dict(dict.fromkeys(names, "forged"))

    def known(image: modal.Image) -> tuple[modal.Image, set[str]]:
        """A snapshot of a new sandbox, and what its entrypoint, an exec, and an exec with a secret have said."""
        sandbox = modal.Sandbox.create(
            "sh", "-c", f"{command[2]}; read -r _", app=app, image=image, secrets=[forged], timeout=120
        )
        try:
            first = next(iter(sandbox.stdout)).split()
            assert first[:1] == [sandbox.object_id]
            assert first[1].startswith("ta-")
            assert first[2] == image.object_id
            assert not {"", "forged"} & set(first)
            later = [sandbox.exec(*command).stdout.read(), sandbox.exec(*command, secrets=[forged]).stdout.read()]
            assert [one.split() for one in later] == [first, first]
            return sandbox.snapshot_filesystem(), set(first[:3])
        finally:
            sandbox.terminate()

    snapshot, first = known(modal.Image.debian_slim().env({"MODAL_SANDBOX_ID": "forged"}).build(app))
    _, second = known(snapshot)
    assert not first & second


def test_an_entrypoint_gives_the_sandbox_its_output_and_exit_code(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("sh", "-c", "read word; echo got $word; exit 5", app=app, timeout=60)
    sandbox.stdin.write("it\n")
    sandbox.stdin.drain()
    assert sandbox.stdout.read() == "got it\n"
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 5


def test_a_sandbox_ends_at_its_timeout(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=1)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        sandbox.wait()
    assert sandbox.returncode == 124


def test_a_terminated_sandbox_says_so(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    assert sandbox.poll() is None
    sandbox.terminate(wait=True)
    assert sandbox.poll() == 137


def test_names_are_unique_while_they_run_and_found_by_name(app: modal.App) -> None:
    first = modal.Sandbox.create(app=app, name="only-one", timeout=60)
    try:
        with pytest.raises(modal.exception.AlreadyExistsError):
            modal.Sandbox.create(app=app, name="only-one", timeout=60)
        assert modal.Sandbox.from_name("sandbox-tests", "only-one").object_id == first.object_id
    finally:
        first.terminate(wait=True)
    second = modal.Sandbox.create(app=app, name="only-one", timeout=60)
    second.terminate(wait=True)


def test_a_sandbox_can_be_named_later(app: modal.App) -> None:
    first, second = (modal.Sandbox.create(app=app, timeout=60) for _ in range(2))
    try:
        first._experimental_set_name("named-later")
        assert modal.Sandbox.from_name("sandbox-tests", "named-later").object_id == first.object_id
        with pytest.raises(modal.exception.AlreadyExistsError):
            second._experimental_set_name("named-later")
        first.terminate(wait=True)
        second._experimental_set_name("named-later")
    finally:
        first.terminate()
        second.terminate()


def test_a_sandbox_is_found_by_its_id_running_and_ended(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("sh", "-c", "read word; exit 7", app=app, timeout=60)
    found = modal.Sandbox.from_id(sandbox.object_id)
    assert (found.poll(), found.returncode) == (None, None)
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    sandbox.wait()
    assert (found.poll(), found.returncode) == (7, 7)
    assert modal.Sandbox.from_id(sandbox.object_id).returncode == 7
    with pytest.raises(modal.exception.NotFoundError):
        modal.Sandbox.from_id("sb-0123456789abcdefghijklmnop").poll()


@pytest.mark.parametrize("tags", [{"n": "x" * 300}, {"": "x"}, {str(n): "x" for n in range(100)}])
def test_tags_are_bounded(sandbox: modal.Sandbox, tags: dict[str, str]) -> None:
    with pytest.raises(modal.exception.InvalidError):
        sandbox.set_tags(tags)
    assert sandbox.get_tags() == {}


def test_a_gpu_is_refused_by_name(app: modal.App) -> None:
    with pytest.raises(modal.exception.Error, match="gpu is not implemented"):
        modal.Sandbox.create(app=app, gpu="T4")


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "vm"},
        {"custom_domain": "sandboxes.example.com"},
        {"include_oidc_identity_token": True},
        {"_experimental_enable_snapshot": True},
        {"encrypted_ports": [8000], "inbound_cidr_allowlist": ["10.0.0.0/8"]},
        {"experimental_options": {"enable_docker": True}},
        {"experimental_options": {"never_heard_of": "1"}},
    ],
    ids=lambda options: [*options][-1],
)
def test_what_a_sandbox_cannot_be_given_is_refused_by_name(app: modal.App, options: dict[str, Any]) -> None:
    with pytest.raises(modal.exception.Error, match=f"{[*options][-1]}.* is not implemented by the local cloud"):
        modal.Sandbox.create(app=app, timeout=60, **options)


def test_an_experimental_option_is_named(app: modal.App) -> None:
    with pytest.raises(modal.exception.Error, match="experimental_options 'enable_docker', 'other' is not implemented"):
        modal.Sandbox.create(app=app, experimental_options={"other": 1, "enable_docker": True})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outbound_cidr_allowlist": ["not-an-ip/8"]}, "Invalid CIDR: not-an-ip/8"),
        ({"outbound_cidr_allowlist": ["10.0.0.0/8", "1.2.3.4/99"]}, "Invalid CIDR: 1.2.3.4/99"),
        ({"outbound_domain_allowlist": ["no domain"]}, "Invalid domain: no domain"),
        ({"region": "invalid-region"}, "Invalid region: invalid-region"),
        ({"cloud": "invalid-cloud"}, "Invalid cloud provider: invalid-cloud"),
    ],
)
def test_a_bad_value_is_told_in_modal_s_words(app: modal.App, options: dict[str, Any], told: str) -> None:
    with pytest.raises(modal.exception.InvalidError, match=told):
        modal.Sandbox.create(app=app, timeout=60, **options)


def test_a_secret_that_lacks_keys_is_told_in_modal_s_words(app: modal.App) -> None:
    modal.Secret.objects.create("lacking", {"A": "1"}, allow_existing=True)
    modal.Secret.from_name("lacking", required_keys=["A"]).hydrate()
    with pytest.raises(modal.exception.Error, match=r"Secret is missing key\(s\): B, C"):
        modal.Secret.from_name("lacking", required_keys=["C", "A", "B"]).hydrate()
    with pytest.raises(modal.exception.NotFoundError, match="Secret 'no-such-secret' not found"):
        modal.Secret.from_name("no-such-secret").hydrate()
    modal.Secret.objects.delete("lacking")


def test_where_a_sandbox_runs_has_no_effect(app: modal.App) -> None:
    for options in ({"region": ["us-east-1", "eu"]}, {"cloud": "aws"}, {"verbose": True}):
        modal.Sandbox.create(app=app, timeout=60, **options).terminate(wait=True)  # type: ignore[arg-type]


def test_an_encryption_key_is_refused_by_name(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    try:
        sandbox.exec("mkdir", "/tmp/d").wait()
        image = sandbox.snapshot_directory("/tmp/d")
        key = b"k" * 64
        with pytest.raises(modal.exception.Error, match="_experimental_encryption_key is not implemented"):
            sandbox.snapshot_directory("/tmp/d", _experimental_encryption_key=key)
        with pytest.raises(modal.exception.Error, match="_experimental_encryption_key is not implemented"):
            sandbox.mount_image("/tmp/m", image, _experimental_encryption_key=key)
    finally:
        sandbox.terminate()


def test_a_network_file_system_is_refused_by_name(app: modal.App) -> None:
    """There is none to be had: the SDK asks for it before it asks for the sandbox."""
    with pytest.warns(modal.exception.DeprecationError, match="Use `modal.Volume`"):
        files = modal.NetworkFileSystem.from_name("files", create_if_missing=True)
    with pytest.raises(modal.exception.Error, match="SharedVolumeGetOrCreate is not implemented by the local cloud"):
        modal.Sandbox.create(app=app, timeout=60, network_file_systems={"/nfs": files})


def test_sandboxes_are_listed_by_tags(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60, tags={"run": "r1"})
    try:
        found = list(modal.Sandbox.list(app_id=app.app_id, tags={"run": "r1"}))
        assert [item.object_id for item in found] == [sandbox.object_id]
        sandbox.set_tags({"run": "r2"})
        assert list(modal.Sandbox.list(app_id=app.app_id, tags={"run": "r1"})) == []
        assert sandbox.get_tags() == {"run": "r2"}
    finally:
        sandbox.terminate()


def test_a_sync_commits_nothing_of_a_volume_of_version_1(app: modal.App) -> None:
    """There, only the sandbox's end and the background do."""
    with modal.Volume.ephemeral(version=1) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/workspace": volume})
        script = "echo 1 > /workspace/f; sync /workspace"
        assert sandbox.exec("sh", "-c", script).wait() == 0
        assert [entry.path for entry in volume.listdir("/")] == []
        sandbox.terminate(wait=True)
        assert [entry.path for entry in volume.listdir("/")] == ["f"]


def test_eight_sandboxes_that_commit_at_once_lose_nothing(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandboxes = [modal.Sandbox.create(app=app, timeout=120, volumes={"/v": volume}) for _ in range(8)]
        script = "for n in 1 2 3 4 5; do echo $0 > /v/$0-$n; sync /v || exit 1; done"
        running = [sandbox.exec("sh", "-c", script, str(at)) for at, sandbox in enumerate(sandboxes)]
        assert [process.wait() for process in running] == [0] * 8
        assert {entry.path for entry in volume.listdir("/")} == {f"{at}-{n}" for at in range(8) for n in range(1, 6)}
        for sandbox in sandboxes:
            sandbox.terminate()


def test_a_sync_that_leaves_a_file_out_fails(app: modal.App) -> None:
    """An exit code of 0 means that everything is committed; sockets and pipes are in no volume anyway."""
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/workspace": volume})
        sandbox.exec("sh", "-c", "echo 1 > /workspace/good; mkfifo /workspace/pipe").wait()
        assert sandbox.exec("sync", "/workspace").wait() == 0
        sandbox.exec("python3", "-c", "open(b'/workspace/\\xff', 'w').write('2')").wait()
        assert sandbox.exec("sync", "/workspace").wait() == 1
        assert [entry.path for entry in volume.listdir("/")] == ["good"]
        sandbox.terminate()


def test_writes_become_visible_at_sync_and_at_the_end(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        mount = volume.with_mount_options(sub_path="/projects/one")
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/workspace": mount})
        sandbox.exec("sh", "-c", "echo 1 > /workspace/synced").wait()
        assert sandbox.exec("sync", "/workspace").wait() == 0
        assert b"".join(volume.read_file("projects/one/synced")) == b"1\n"
        sandbox.exec("sh", "-c", "echo 2 > /workspace/final").wait()
        sandbox.terminate(wait=True)
        assert b"".join(volume.read_file("projects/one/final")) == b"2\n"


def test_a_sandbox_sees_its_sub_path_and_nothing_else(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        for name in ("one", "two"):
            sandbox = modal.Sandbox.create(
                app=app, timeout=60, volumes={"/workspace": volume.with_mount_options(sub_path=f"/projects/{name}")}
            )
            sandbox.exec("sh", "-c", f"echo {name} > /workspace/me").wait()
            assert sandbox.exec("ls", "-A", "/workspace").stdout.read() == "me\n"
            sandbox.terminate(wait=True)
        assert sorted(entry.path for entry in volume.iterdir("projects") if entry.type.name == "FILE") == [
            "projects/one/me",
            "projects/two/me",
        ]


def test_a_read_only_mount_cannot_be_written(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(
            app=app, timeout=60, volumes={"/global": volume.with_mount_options(read_only=True)}
        )
        try:
            assert sandbox.exec("touch", "/global/x").wait() != 0
        finally:
            sandbox.terminate()


def test_reload_shows_newer_commits(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"late"), "/late")
        assert sandbox.exec("cat", "/v/late").wait() != 0
        sandbox.reload_volumes()
        assert sandbox.exec("cat", "/v/late").stdout.read() == "late"
        sandbox.terminate()


@pytest.mark.parametrize("version", [1, 2])
def test_reload_commits_what_the_sandbox_itself_has_written(app: modal.App, version: int) -> None:
    """As the SDK says: so a file is neither lost to the newer state nor kept from others."""
    with modal.Volume.ephemeral(version=version) as volume:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"theirs"), "/gone")
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        script = "echo mine > /v/made; mkdir /v/d; ln -s made /v/d/link; rm /v/gone; chmod 700 /v/made"
        assert sandbox.exec("sh", "-c", script, workdir="/").wait() == 0
        sandbox.reload_volumes()
        assert b"".join(volume.read_file("made")) == b"mine\n"
        assert {entry.path for entry in volume.iterdir("/", recursive=True)} == {"made", "d", "d/link"}
        assert sandbox.exec("cat", "/v/made").stdout.read() == "mine\n"
        sandbox.terminate()


@pytest.mark.parametrize(
    ("program", "told"),
    [("exec 3< /v/kept; echo on; cat", "has open /v/kept"), ("cd /v; echo on; cat", "works in /v")],
)
def test_a_busy_volume_is_not_reloaded_and_the_holder_is_named(app: modal.App, program: str, told: str) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "/kept")
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        process = sandbox.exec("sh", "-c", program)
        next(iter(process.stdout))
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"late"), "/late")
        with pytest.raises(modal.exception.Error, match=told):
            sandbox.reload_volumes()
        assert sandbox.exec("cat", "/v/late", workdir="/").wait() != 0
        process.stdin.write_eof()
        process.stdin.drain()
        process.wait()
        sandbox.reload_volumes()
        assert sandbox.exec("cat", "/v/late", workdir="/").wait() == 0
        sandbox.terminate()


def test_a_read_only_mount_stays_read_only_when_it_is_reloaded(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        volumes = {"/v": volume.with_mount_options(read_only=True)}
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes=volumes)
        for name in ("one", "two"):
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"1"), f"/{name}")
            sandbox.reload_volumes()
            assert sandbox.exec("cat", f"/v/{name}", workdir="/").wait() == 0
            assert sandbox.exec("touch", "/v/x", workdir="/").wait() != 0
        sandbox.terminate()


def test_a_program_that_runs_from_a_volume_goes_on_when_the_volume_is_reloaded(app: modal.App) -> None:
    """Its file is in use, but it is not open: that refuses no reload."""
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        assert sandbox.exec("cp", "/bin/cat", "/v/program", workdir="/").wait() == 0
        process = sandbox.exec("/v/program", workdir="/")
        for name in ("one", "two"):
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"1"), f"/{name}")
            sandbox.reload_volumes()
            assert sandbox.exec("cat", f"/v/{name}", workdir="/").wait() == 0
        process.stdin.write(b"still here")
        process.stdin.write_eof()
        process.stdin.drain()
        assert process.stdout.read() == "still here"
        sandbox.terminate()


def test_a_volume_inside_of_another_one_stays_there_when_both_are_reloaded(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as outer, modal.Volume.ephemeral(version=2) as inner:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": outer, "/v/inner": inner})
        for volume in (outer, inner):
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"1"), "/late")
        sandbox.reload_volumes()
        assert sandbox.exec("cat", "/v/late", "/v/inner/late", workdir="/").stdout.read() == "11"
        assert sandbox.exec("sh", "-c", "echo 2 > /v/inner/own; sync /v/inner", workdir="/").wait() == 0
        assert b"".join(inner.read_file("own")) == b"2\n"
        sandbox.terminate()


def test_jobs_hold_no_token(sandbox: modal.Sandbox) -> None:
    assert "MODAL_TOKEN" not in sandbox.exec("env").stdout.read()


def test_what_is_not_implemented_is_refused_by_name(sandbox: modal.Sandbox) -> None:
    with pytest.raises(modal.exception.Error, match="TaskSnapshotMemory is not implemented"):
        sandbox._experimental_snapshot()


def test_background_commits_come_by_themselves(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        sandbox.exec("sh", "-c", "echo 1 > /v/f").wait()
        deadline = time.monotonic() + 60
        while not volume.listdir("/") and time.monotonic() < deadline:
            time.sleep(0.5)
        assert b"".join(volume.read_file("f")) == b"1\n"
        sandbox.terminate()


def test_a_volume_that_is_deleted_does_not_keep_another_from_its_commits(app: modal.App) -> None:
    gone = modal.Volume.from_name("deleted-below-a-sandbox", create_if_missing=True, version=2).hydrate()
    with modal.Volume.ephemeral(version=2) as kept:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/a": gone, "/b": kept})
        modal.Volume.objects.delete("deleted-below-a-sandbox")
        assert sandbox.exec("sh", "-c", "echo 1 > /a/f; echo 1 > /b/f; sync /").wait() != 0  # the deleted one's
        assert [entry.path for entry in kept.listdir("/")] == ["f"]
        sandbox.terminate()


def test_a_file_that_is_dated_before_1970_is_listed(app: modal.App) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        sandbox = modal.Sandbox.create(app=app, timeout=60, volumes={"/v": volume})
        assert sandbox.exec("sh", "-c", "touch -d 1960-01-01 /v/old; sync /v").wait() == 0
        assert [(entry.path, entry.mtime) for entry in volume.listdir("/")] == [("old", 0)]
        sandbox.terminate()


def test_a_terminal_is_one(sandbox: modal.Sandbox) -> None:
    """Allocated inside: the program has a controlling terminal, its size and its name; output is one stream."""
    code = (
        "import os, sys\n"
        "print(all(os.isatty(n) for n in (0, 1, 2)), os.ttyname(0), os.environ['TERM'], sep=' ')\n"
        "print('in', input(), file=sys.stderr)\n"
        "open('/dev/tty', 'w').write('to the terminal\\n')\n"
    )
    process = sandbox.exec("python3", "-c", code, pty=True)
    process.stdin.write("typed\n")
    process.stdin.drain()
    lines = process.stdout.read().splitlines()
    assert any(line.startswith("True /dev/pts/") for line in lines)
    assert "in typed" in lines
    assert "to the terminal" in lines
    assert process.wait() == 0


def test_a_shell_in_a_terminal_ends_with_its_input(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("sh", pty=True)
    process.stdin.write("echo $((40 + 2))\n")
    process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.wait() == 0
    assert "42" in process.stdout.read()


def test_an_idle_sandbox_ends_and_a_busy_one_does_not(app: modal.App) -> None:
    """Programs keep it alive; the program that it was created with does not, as on Modal."""
    sandbox = modal.Sandbox.create("sleep", "600", app=app, timeout=120, idle_timeout=2)
    assert sandbox.exec("sleep", "4").wait() == 0
    assert sandbox.poll() is None
    wait_until(lambda: sandbox.poll() is not None, "an idle sandbox did not end")


def test_memory_beyond_the_limit_is_told_in_the_app_s_log(app: modal.App, modal_cli: Cli) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=120, memory=(64, 128))
    code = "data = []\nwhile True: data.append(bytearray(b'x' * (1 << 20)))"
    assert sandbox.exec("python3", "-c", code).wait() == 137
    sandbox.wait()  # it is no termination, of which this would tell
    assert sandbox.returncode == 137
    assert sandbox._get_metadata().result.status == api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL
    wait_until(
        lambda: "more than 128 MiB of memory" in modal_cli("app", "logs", "sandbox-tests", "--since", "1h"),
        "the log does not tell",
    )
    sandbox.terminate()
