"""The hardened side of experiments alone, at a copy of the endpoint in which one hardening is switched off."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import stop_apps
from tests.support.edited_endpoint import deployed_from, edited_endpoint
from tests.support.switched_off import OFF
from workbench import Project, Workbench
from workbench.failures.catalogue import find
from workbench.failures.experiments import EXPERIMENTS
from workbench.failures.lab import FailureLab
from workbench.failures.sides import Hardened, Side

APP = "failure-lab-off"
MODES = [name for name in EXPERIMENTS if not find(name).family.startswith("model")]
"""What can be shown without a model."""
_AT_ONCE = 4


def broken_without(wb: Workbench, root: Path, hardening: str, modes: Iterable[str]) -> dict[str, str]:
    """The modes, of these, whose promise is not kept without a hardening, each with what was seen instead."""
    with _deployed(wb, root, hardening) as side:
        together = [name for name in modes if not EXPERIMENTS[name].alone]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = dict(zip(together, pool.map(lambda name: _broken(wb.failures, side, name), together), strict=True))
        for name in modes:
            if name not in found:
                found[name] = _broken(wb.failures, side, name)
        return {name: said for name, said in found.items() if said}


def broken_alone(wb: Workbench, root: Path, hardening: str, mode: str) -> str:
    """What is seen in the place of the promise of one mode, with nothing beside it; empty when it is kept."""
    with _deployed(wb, root, hardening) as side:
        return _broken(wb.failures, side, mode)


@contextmanager
def _deployed(wb: Workbench, root: Path, hardening: str) -> Iterator[Side]:
    side = Hardened(wb.target, wb.faults)
    side.app_name = APP
    with deployed_from(edited_endpoint(root, OFF[hardening])):
        side.deploy(lambda line: None)
        try:
            yield side
        finally:
            stop_apps(APP)


def _broken(lab: FailureLab, side: Side, name: str) -> str:
    """What was seen in the place of the promise; a fault that did not fire is a failure of the test."""
    well = side.run(Project.new(), "print('well')")
    assert well.ended == "done", f"{name}: without any fault it {well}"
    result = lab._seen(side, EXPERIMENTS[name], well, lab._faults())
    assert all(fault.injected for fault in result.fired), f"{name}: {result.fired}"
    verdict, said = result.judged(find(name), EXPERIMENTS[name])
    return "" if verdict == find(name).promise else said
