"""Runs under faults: a seeded part of `workbench soak runs`."""

import json

import pytest

from tests.support.commands import cli
from workbench.soak.run_cases import HARMS, Case

SEED, COUNT = 261948, 18  # every kind of harm is among them


@pytest.mark.timeout(600)
def test_every_run_keeps_its_promises_whatever_is_done_to_it() -> None:
    assert {Case.choose(SEED, number).harm for number in range(COUNT)} == set(HARMS)
    done = cli("soak", "runs", "--seed", f"{SEED}", "--count", f"{COUNT}", "--json", timeout_s=550)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["failure"], report["left"]) == (0, True, "", [])
    assert (report["runs"], report["proofs"]) == (COUNT, COUNT)
    assert sum(count for ends in report["ends"].values() for count in ends.values()) == COUNT
    assert report["readers"] > COUNT
    assert report["connections"] > report["readers"]
