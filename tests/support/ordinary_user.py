"""Runs tests as an ordinary user where the tests themselves are root: the isolation has other rules then."""

import os
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_UID = 65_000


def run_as_ordinary_user(*tests: str, timeout_s: float = 380, with_ids: bool = False) -> int:
    """Run these tests to their end and return how many have passed; fail with what they printed when one does not.

    `with_ids` takes a user of this machine who has subordinate ids. Skips where there is none, and where an ordinary
    user can start no Python of this version.
    """
    uid = _user_with_ids() if with_ids else _UID
    as_ordinary = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all"]
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
        subprocess.run(["chown", "-R", f"{uid}:{uid}", str(home)], check=True, timeout=300)
        unused = ("-p", "no:cacheprovider", "-p", "no:nbval")
        command = [*as_ordinary, python, "-m", "pytest", "-q", *unused, "--timeout=60", *tests]
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


def _user_with_ids() -> int:
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed")
    for line in Path("/etc/subuid").read_text().splitlines() if Path("/etc/subuid").exists() else ():
        name, _, count = line.split(":")
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            if user.pw_uid == user.pw_gid >= 1000 and int(count) >= 65_535:
                return user.pw_uid
    pytest.skip("no user of this machine has subordinate ids: see `man 5 subuid`")


def _interpreter(as_ordinary: Sequence[str]) -> str | None:
    """A Python like this one that an ordinary user can start, None when there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        test = [*as_ordinary, path, "-c", "import sys; open(sys.executable, 'rb').close()"]
        if Path(path).exists() and subprocess.run(test, capture_output=True, timeout=60, check=False).returncode == 0:
            return path
    return None
