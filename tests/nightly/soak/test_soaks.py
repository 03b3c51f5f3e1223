"""The soaks for longer than before a commit, each with another seed every night, which is printed."""

import json
import random

import pytest

from tests.support.commands import cli

pytestmark = pytest.mark.timeout(1800)


def soak(what: str, *arguments: str, timeout_s: float = 1700) -> None:
    seed = random.SystemRandom().randrange(2**32)
    done = cli("soak", what, "--seed", f"{seed}", *arguments, "--json", timeout_s=timeout_s)
    assert done.returncode == 0, f"workbench soak {what} --seed {seed}: {done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    assert report["ok"], report


def test_runs() -> None:
    soak("runs", "--count", "300")


def test_sandboxes() -> None:
    soak("sandboxes", "--cycles", "200", "--kills", "10", "--concurrent", "30")


def test_volumes() -> None:
    soak("volumes", "--kills", "20", "--size-mb", "200", "--files", "3000")
