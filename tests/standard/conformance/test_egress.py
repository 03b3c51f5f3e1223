"""What a sandbox may reach, through the stock SDK and the programs that people use."""

import http.server
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import modal
import pytest
from modal.exception import InvalidError

from tests.conftest import REACHABLE, wait_until
from tests.support.commands import Cli
from tests.support.packages import debian_repository
from workbench.local_cloud.process.state_directory import Running


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("egress-tests", create_if_missing=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a page, a git repository, and a package each of Debian, Python and npm."""
    root = tmp_path_factory.mktemp("site")
    (root / "page").write_text("hello")
    _repository(root)
    _wheel(root / "simple" / "tiny")
    (root / "debs").mkdir()
    debian_repository(root / "debs", "from-the-site", 'echo "$(id -un) installed it" > /said-by-postinst')
    manifest = {"name": "tiny", "versions": {"1.2.3": {"name": "tiny", "version": "1.2.3"}}}
    (root / "tiny").write_text(json.dumps(manifest | {"dist-tags": {"latest": "1.2.3"}}))
    with http.server.ThreadingHTTPServer((REACHABLE, 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{REACHABLE}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _repository(root: Path) -> None:
    work = root / "work"
    commit = [
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "first",
    ]
    for command in (["git", "init", "-q", str(work)], [*commit[:1], "-C", str(work), *commit[1:]]):
        subprocess.run(command, check=True, timeout=60)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(root / "tiny.git")], check=True, timeout=60)
    subprocess.run(["git", "-C", str(root / "tiny.git"), "update-server-info"], check=True, timeout=60)


def _wheel(directory: Path) -> None:
    directory.mkdir(parents=True)
    with zipfile.ZipFile(directory / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "print('tiny')")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    (directory / "index.html").write_text('<a href="tiny-1.0-py3-none-any.whl">tiny</a>')


@pytest.fixture
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create(app=app, image=IMAGE, timeout=120, outbound_cidr_allowlist=[f"{REACHABLE}/32"])
    yield sandbox
    sandbox.terminate()


def output(sandbox: modal.Sandbox, *argv: str) -> tuple[int, str]:
    process = sandbox.exec(*argv)
    text = process.stdout.read()
    return process.wait(), text


IMAGE = modal.Image.debian_slim().apt_install("curl", "git", *(["nodejs", "npm"] if shutil.which("npm") else []))
CURL = ("curl", "-sS", "--max-time", "30")
PYTHON = "import urllib.request as u; print(u.urlopen('{site}/page').read().decode())"
PIP = """
python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target /tmp/p \\
  --index-url {site}/simple --trusted-host {host} tiny >&2 && PYTHONPATH=/tmp/p python3 -c 'import tiny'
"""
APT = """
rm -rf /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] {site}/debs ./' > /etc/apt/sources.list
{ apt-get update && apt-get install -y from-the-site && apt-get remove -y --purge from-the-site; } >&2
cat /said-by-postinst
"""
PROGRAMS = {
    "apt": ("root installed it", "sh", "-ec", APT),
    "curl": ("hello", *CURL, "{site}/page"),
    "python": ("hello", "python3", "-c", PYTHON),
    "git": ("first", "sh", "-c", "cd /tmp && git clone -q {site}/tiny.git && git -C tiny log --format=%s"),
    "pip": ("tiny", "sh", "-c", PIP),
    "npm": ("1.2.3", "npm", "view", "tiny", "version", "--registry", "{site}/"),
}


def _needs(*argv: str) -> pytest.MarkDecorator:
    """Skip where the system, of which sandboxes have a copy, does not have a program."""
    try:
        there = subprocess.run(argv, capture_output=True, check=False, timeout=60).returncode == 0
    except FileNotFoundError:
        there = False
    return pytest.mark.skipif(not there, reason=f"this system has no {' '.join(argv[:-1])}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("apt", marks=_needs("/usr/bin/apt-get", "--version")),
        "curl",
        "python",
        "git",
        pytest.param("pip", marks=_needs("/usr/bin/python3", "-m", "pip", "--version")),
        pytest.param("npm", marks=_needs("/usr/bin/npm", "--version")),
    ],
)
def test_the_usual_programs_find_their_way(sandbox: modal.Sandbox, site: str, name: str) -> None:
    expected, *argv = PROGRAMS[name]
    code, text = output(sandbox, *(word.replace("{site}", site).replace("{host}", REACHABLE) for word in argv))
    assert (code, text.strip()) == (0, expected)


def test_without_limits_everything_public_is_open_and_nothing_else(app: modal.App, site: str) -> None:
    sandbox = modal.Sandbox.create(app=app, image=IMAGE, timeout=60)
    assert output(sandbox, *CURL, f"{site}/page") == (0, "hello")
    assert output(sandbox, *CURL, "http://169.254.169.254/latest/meta-data/")[0] != 0
    assert output(sandbox, *CURL, "http://10.0.0.1/")[0] != 0
    sandbox.terminate()


def test_a_blocked_sandbox_reaches_nothing_and_its_log_tells_what_it_tried(
    app: modal.App, site: str, modal_cli: Cli
) -> None:
    sandbox = modal.Sandbox.create(app=app, image=IMAGE, timeout=60, block_network=True)
    assert output(sandbox, *CURL, f"{site}/page") != (0, "hello")
    assert output(sandbox, *CURL, "https://exfiltrate.example/")[0] != 0
    wait_until(
        lambda: "a connection to exfiltrate.example:443 was refused" in modal_cli("app", "logs", "egress-tests"),
        "the log does not tell",
    )
    sandbox.terminate()


def test_an_allowlist_lets_through_what_is_on_it(app: modal.App, site: str) -> None:
    sandbox = modal.Sandbox.create(app=app, image=IMAGE, timeout=60, outbound_domain_allowlist=["example.com"])
    assert output(sandbox, *CURL, f"{site}/page")[0] != 0  # an address is no domain
    sandbox.terminate()


def test_the_network_of_a_running_sandbox_is_changed(sandbox: modal.Sandbox, site: str) -> None:
    assert output(sandbox, *CURL, f"{site}/page") == (0, "hello")
    sandbox._experimental_set_outbound_network_policy(outbound_domain_allowlist=["example.com"])
    assert output(sandbox, *CURL, f"{site}/page")[0] != 0
    sandbox._experimental_set_outbound_network_policy(outbound_cidr_allowlist=[f"{REACHABLE}/32"])
    assert output(sandbox, *CURL, f"{site}/page") == (0, "hello")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("outbound_cidr_allowlist", "300.0.0.0/8"),
        ("outbound_cidr_allowlist", "10.0.0.1/8"),
        ("outbound_domain_allowlist", "https://Example.com"),
        ("outbound_domain_allowlist", "exa mple.com"),
    ],
)
def test_what_is_no_range_or_domain_is_refused_by_name(app: modal.App, kind: str, value: str) -> None:
    with pytest.raises(InvalidError, match=value.replace(".", r"\.")):
        modal.Sandbox.create(app=app, image=IMAGE, timeout=60, **{kind: [value]})
    assert list(modal.Sandbox.list(app_id=app.app_id)) == []
