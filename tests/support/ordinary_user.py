"""Runs tests as an ordinary user where the tests themselves are root: the isolation has other rules then."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_UID = 65_000
_WITH_IDS = {
    "/etc/passwd": f"workbench-tests:x:{_UID}:{_UID}::/nonexistent:/bin/sh",
    "/etc/subuid": f"{_UID}:500000000:65536",
    "/etc/subgid": f"{_UID}:500000000:65536",
}


def run_as_ordinary_user(*tests: str, timeout_s: float = 380, with_ids: bool = False) -> int:
    """Run these tests to their end and return how many have passed; fail with what they printed when one does not.

    `with_ids` gives the user subordinate ids, which no other process of this machine sees. Skips where `newuidmap` is
    not installed, and where an ordinary user can start no Python of this version.
    """
    if with_ids and not (shutil.which("newuidmap") and all(Path(path).exists() for path in _WITH_IDS)):
        pytest.skip("newuidmap is not installed: `apt-get install uidmap`")
    as_ordinary = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "--inh-caps=-all"]
    as_ordinary += ["--ambient-caps=-all"]
    if not with_ids:  # a program that is to gain privileges by its setuid bit, as newuidmap, could not
        as_ordinary += ["--bounding-set=-all"]
    python = _interpreter(as_ordinary)
    if python is None:
        pytest.skip("no Python of this version that an ordinary user may start")
    home = Path(tempfile.mkdtemp(prefix="wbo-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))  # short: for sockets
    try:
        # What root alone may enter, an ordinary user cannot import: the tests and their packages are staged.
        for source in (ROOT / "tests", ROOT / "workbench", ROOT / "modal_app", ROOT / "pyproject.toml"):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, home / source.name)
        packages = Path(sysconfig.get_paths()["purelib"])
        readable = subprocess.run([*as_ordinary, "test", "-r", str(packages / "modal")], check=False, timeout=60)
        if readable.returncode != 0:
            shutil.copytree(packages, home / "packages")
            packages = home / "packages"
        subprocess.run(["chown", "-R", f"{_UID}:{_UID}", str(home)], check=True, timeout=300)
        unused = ("-p", "no:cacheprovider", "-p", "no:nbval")
        command = [
            *(_giving_ids(home) if with_ids else ()),
            *as_ordinary,
            python,
            "-m",
            "pytest",
            "-q",
            *unused,
            "--timeout=60",
            *tests,
        ]
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": os.pathsep.join((str(home), str(packages))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            command, cwd=home, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed, done.stdout
        return int(passed[1])
    finally:
        shutil.rmtree(home)


def _giving_ids(directory: Path) -> list[str]:
    """The beginning of a command that sees the tests' user and its subordinate ids in the system's files."""
    mounts = []
    for path, line in _WITH_IDS.items():
        seen = directory / Path(path).name
        seen.write_text(f"{Path(path).read_text().rstrip()}\n{line}\n".lstrip())
        seen.chmod(0o644)
        mounts.append(f"mount --bind {shlex.quote(str(seen))} {path}")
    return ["unshare", "--mount", "--", "sh", "-ec", f'{"; ".join(mounts)}; exec "$@"', "sh"]


def _interpreter(as_ordinary: Sequence[str]) -> str | None:
    """A Python like this one that an ordinary user can start, None when there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        test = [*as_ordinary, path, "-c", "import sys; open(sys.executable, 'rb').close()"]
        if Path(path).exists() and subprocess.run(test, capture_output=True, timeout=60, check=False).returncode == 0:
            return path
    return None
