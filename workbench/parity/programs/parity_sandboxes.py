"""Sandboxes: programs in them, their streams and ends, files, networks, snapshots and time limits."""

import socket
import ssl
import time
from contextlib import contextmanager

import modal
from parity_rows import fresh, raised, raises, removed, row, until

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-sandboxes", image=image)
PYTHON = modal.Image.debian_slim()
LIFE_S = 120


@contextmanager
def sandbox(*command, **options):
    made = modal.Sandbox.create(*command, app=app, **{"image": PYTHON, "timeout": LIFE_S, **options})
    with removed(made.terminate):
        yield made


def said(box, *command, **options):
    process = box.exec(*command, **options)
    out, err = process.stdout.read(), process.stderr.read()
    return [out, err, process.wait()]


@row(
    "A program's output, errors and exit code are its own.", source="guide/sandbox-spawn", expects=["out\n", "err\n", 7]
)
def output_and_exit_code():
    with sandbox() as box:
        return said(box, "sh", "-c", "echo out; echo err >&2; exit 7")


@row(
    "A program that a signal ends has 128 and its number as exit code.",
    source="guide/sandbox-spawn",
    expects=[143, 137],
)
def signals():
    with sandbox() as box:
        return [said(box, "sh", "-c", f"kill -{name} $$")[2] for name in ("TERM", "KILL")]


@row("A program that there is not is told.", source="guide/sandbox-spawn")
def programs_that_there_are_not():
    with sandbox() as box:
        return raised(lambda: box.exec("no-such-program").wait()).get("raises", "an exit code")


@row(
    "What is written to a program's standard input arrives, and its end, too.",
    source="guide/sandbox-spawn",
    expects="one\ntwo",
)
def standard_input():
    with sandbox() as box:
        process = box.exec("cat")
        process.stdin.write("one\n")
        process.stdin.drain()
        process.stdin.write("two")
        process.stdin.write_eof()
        process.stdin.drain()
        return process.stdout.read()


@row("Bytes come back as bytes where they are asked for.", source="reference/modal.Sandbox", expects=[0, 255, 10])
def binary_output():
    with sandbox() as box:
        process = box.exec("python3", "-c", "import sys; sys.stdout.buffer.write(bytes([0, 255, 10]))", text=False)
        return list(process.stdout.read())


@row("Output arrives line by line while a program runs.", source="guide/sandbox-spawn", expects=[["1\n", "2\n"], True])
def output_as_it_comes():
    with sandbox() as box:
        came = []
        for line in box.exec("sh", "-c", "echo 1; sleep 1; echo 2").stdout:
            came.append((line, time.monotonic()))
        return [[line for line, _ in came], came[-1][1] - came[0][1] > 0.5]


@row("`exec` takes a directory, variables and secrets.", source="reference/modal.Sandbox", expects="/tmp one two\n")
def exec_options():
    with sandbox() as box:
        options = {"workdir": "/tmp", "env": {"ONE": "one"}, "secrets": [modal.Secret.from_dict({"TWO": "two"})]}
        return said(box, "sh", "-c", "echo $PWD $ONE $TWO", **options)[0]


@row("An `exec` that takes longer than its time-out is killed.", source="reference/modal.Sandbox", expects=[-1, True])
def exec_timeouts():
    with sandbox() as box:
        process = box.exec("sleep", "60", timeout=2)
        code = process.wait()
        gone = until(
            lambda: "sleep 60" not in said(box, "sh", "-c", "cat /proc/*/cmdline | tr '\\0' ' '")[0].replace("cat", ""),
            seconds=10,
        )
        return [code, bool(gone)]


@row("A program with a PTY has a terminal.", source="reference/modal.Sandbox", expects="terminal")
def terminals():
    with sandbox() as box:
        return box.exec("sh", "-c", "test -t 1 && echo terminal || echo none", pty=True).stdout.read().strip()


@row("A sandbox's own program has output, an exit code, and an end.", source="guide/sandbox", expects=["hello\n", 3, 3])
def entrypoints():
    with sandbox("sh", "-c", "echo hello; exit 3") as box:
        box.wait(raise_on_termination=False)
        return [box.stdout.read(), box.returncode, box.poll()]


@row("`poll` is None while a sandbox runs; `terminate` ends it with 137.", source="guide/sandbox", expects=[None, 137])
def termination():
    with sandbox("sleep", "600") as box:
        before = box.poll()
        box.terminate()
        box.wait(raise_on_termination=False)
        return [before, box.returncode]


@row(
    "A sandbox that outlives its time-out is ended, and whoever waits is told.",
    source="guide/sandbox",
    expects=["SandboxTimeoutError", 124],
)
def time_limits():
    with sandbox("sleep", "600", timeout=10) as box:
        return [raises(box.wait), box.returncode]


@row("An idle sandbox is ended after its idle time-out.", source="guide/sandbox", expects=True, seconds=90)
def idle_limits():
    with sandbox(idle_timeout=5, timeout=300) as box:
        return until(lambda: box.poll() is not None, seconds=60)


@row(
    "Files are written, read, listed and removed.",
    source="guide/sandbox-files",
    expects=["text", "6279746573", ["a.txt", "b.bin"], ["b.bin"]],
)
def files():
    with sandbox() as box:
        files = box.filesystem
        files.make_directory("/tmp/parity")
        files.write_text("text", "/tmp/parity/a.txt")
        files.write_bytes(b"bytes", "/tmp/parity/b.bin")
        read = [files.read_text("/tmp/parity/a.txt"), files.read_bytes("/tmp/parity/b.bin").hex()]
        before = sorted(one.name for one in files.list_files("/tmp/parity"))
        files.remove("/tmp/parity/a.txt")
        return [*read, before, sorted(one.name for one in files.list_files("/tmp/parity"))]


@row(
    "A missing file, and a directory where a file is meant, are told by their own errors.",
    source="guide/sandbox-files",
    expects=["SandboxFilesystemNotFoundError", "SandboxFilesystemIsADirectoryError"],
)
def files_that_are_not_there():
    with sandbox() as box:
        return [raises(lambda: box.filesystem.read_text("/tmp/none")), raises(lambda: box.filesystem.read_text("/tmp"))]


@row(
    "The whole file system can be written.",
    source="guide/sandbox-files",
    expects=0,
)
def the_root_can_be_written():
    with sandbox() as box:
        return said(box, "sh", "-c", "echo x > /opt/parity && echo y >> /etc/hosts.parity")[2]


@row("Programs start as root.", source="guide/sandbox", expects="0\n")
def programs_are_root():
    with sandbox() as box:
        return said(box, "id", "-u")[0]


@row("The kernel is gVisor's.", source="guide/sandbox", expects="4.4.0", differs="Kernel")
def the_kernel():
    with sandbox() as box:
        release = said(box, "uname", "-r")[0].strip()
        return release if release == "4.4.0" else "another"


SERVER = "import http.server as h; h.HTTPServer(('0.0.0.0', 8000), h.SimpleHTTPRequestHandler).serve_forever()"


@row("An encrypted port is reached through a tunnel, with TLS.", source="guide/tunnels", expects="HTTP/1.0 200 OK")
def encrypted_tunnels():
    with sandbox("python3", "-c", SERVER, encrypted_ports=[8000], workdir="/tmp") as box:
        host, port = box.tunnels()[8000].tls_socket
        context = ssl._create_unverified_context()  # a certificate of the local cloud's own; see DIFFERENCES
        return until(lambda: _status(host, port, context), seconds=20)


@row("An unencrypted port is reached through a tunnel, as it is.", source="guide/tunnels", expects="HTTP/1.0 200 OK")
def plain_tunnels():
    with sandbox("python3", "-c", SERVER, unencrypted_ports=[8000], workdir="/tmp") as box:
        host, port = box.tunnels()[8000].tcp_socket
        return until(lambda: _status(host, port, None), seconds=20)


def _status(host, port, context):
    try:
        with socket.create_connection((host, port), 10) as plain:
            connection = context.wrap_socket(plain, server_hostname=host) if context else plain
            connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return connection.recv(100).split(b"\r\n")[0].decode()
    except OSError:
        return ""


@row(
    "A tunnel's certificate is known to everybody.",
    source="guide/tunnels",
    expects="HTTP/1.0 200 OK",
    differs="Tunnels",
)
def tunnels_certificate():
    with sandbox("python3", "-c", SERVER, encrypted_ports=[8000], workdir="/tmp") as box:
        host, port = box.tunnels()[8000].tls_socket
        return until(lambda: _status(host, port, ssl.create_default_context()), seconds=5)


@row("A sandbox without a network reaches nothing.", source="guide/sandbox-networking", expects=False)
def blocked_networks():
    with sandbox(block_network=True) as box:
        code = "import urllib.request as u; u.urlopen('http://1.1.1.1/', timeout=5)"
        return said(box, "python3", "-c", code)[2] == 0


@row(
    "A snapshot of the file system is an image with what was written.", source="guide/sandbox-snapshots", expects="kept"
)
def file_system_snapshots():
    with sandbox() as box:
        box.exec("sh", "-c", "printf kept > /tmp/kept").wait()
        image = box.snapshot_filesystem()
    with sandbox(image=image) as other:
        return said(other, "cat", "/tmp/kept")[0]


@row("A snapshot of a directory can be mounted in another sandbox.", source="guide/sandbox-snapshots", expects="kept")
def directory_snapshots():
    with sandbox() as box:
        box.exec("sh", "-c", "mkdir /tmp/made; printf kept > /tmp/made/file").wait()
        image = box.snapshot_directory("/tmp/made")
    with sandbox() as other:
        other.mount_image("/tmp/there", image)
        return said(other, "cat", "/tmp/there/file")[0]


@row(
    "A sandbox is found by its name, and a second one of that name is refused.",
    source="guide/sandbox-spawn",
    expects=[True, "AlreadyExistsError"],
)
def names():
    name = fresh("named")
    with sandbox("sleep", "600", name=name) as box:
        found = modal.Sandbox.from_name(app.name, name).object_id == box.object_id
        return [found, raises(lambda: modal.Sandbox.create("true", app=app, name=name, timeout=10))]


@row(
    "Tags are kept, and sandboxes are listed by them.",
    source="guide/sandbox-spawn",
    expects=[{"who": "parity"}, True, False],
)
def tags():
    with sandbox("sleep", "600") as box:
        box.set_tags({"who": "parity"})
        listed = [one.object_id for one in modal.Sandbox.list(app_id=app.app_id, tags={"who": "parity"})]
        others = [one.object_id for one in modal.Sandbox.list(app_id=app.app_id, tags={"who": "nobody"})]
        return [box.get_tags(), box.object_id in listed, box.object_id in others]


@row("`from_id` gives a sandbox that runs elsewhere.", source="reference/modal.Sandbox", expects="there\n")
def by_id():
    with sandbox() as box:
        return said(modal.Sandbox.from_id(box.object_id), "echo", "there")[0]


@row("What is written to a volume and synced is in the volume.", source="guide/sandbox-files", expects="kept")
def volumes_in_sandboxes():
    with modal.Volume.ephemeral() as volume, sandbox(volumes={"/data": volume}) as box:
        box.exec("sh", "-c", "printf kept > /data/file && sync /data").wait()
        box.terminate(wait=True)
        return b"".join(volume.read_file("file")).decode()


@row("A volume that is mounted read-only cannot be written.", source="guide/volumes", expects=False)
def read_only_volumes():
    with modal.Volume.ephemeral() as volume, sandbox(volumes={"/data": volume.read_only()}) as box:
        return said(box, "sh", "-c", "echo x > /data/file")[2] == 0


@row("The same volume is refused twice in one sandbox.", source="guide/volumes", expects="InvalidError")
def a_volume_twice():
    with modal.Volume.ephemeral() as volume:
        return raises(lambda: modal.Sandbox.create("true", app=app, volumes={"/a": volume, "/b": volume}, timeout=10))


@row("A readiness probe tells when a server listens.", source="reference/modal.Sandbox", expects="HTTP/1.0 200 OK")
def readiness():
    code = f"import time; time.sleep(1); {SERVER}"
    probe = modal.Probe.with_tcp(8000)
    with sandbox("python3", "-c", code, unencrypted_ports=[8000], workdir="/tmp", readiness_probe=probe) as box:
        box.wait_until_ready(timeout=40)
        host, port = box.tunnels()[8000].tcp_socket
        return _status(host, port, None)
