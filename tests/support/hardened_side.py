"""The hardened side of experiments alone, at a copy of the endpoint in which one hardening is switched off."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from threading import Lock

from tests.conftest import stop_apps
from tests.support.edited_endpoint import deployed_from, edited_endpoint
from tests.support.switched_off import OFF
from workbench import Workbench
from workbench.failures.catalogue import find
from workbench.failures.experiments import EXPERIMENTS
from workbench.failures.hardenings import HARDENINGS
from workbench.failures.lab import FailureLab, _in_company, _well, _well_with_claude
from workbench.failures.observation import Observation
from workbench.failures.sides import Hardened

APP = "failure-lab-off"
MODEL_MODES = [name for name in EXPERIMENTS if find(name).family.startswith("model")]
"""Those of the model and of its CLI."""
OWN_CLOUD_MODES = [name for name, one in EXPERIMENTS.items() if one.own_cloud]
"""Those that are brought about in a cloud of their own. They take a minute each: only what serves them is tried."""
MODES = [name for name in EXPERIMENTS if name not in (*MODEL_MODES, *OWN_CLOUD_MODES)]
"""What can be shown without a model, in a cloud that others use."""
OF_THE_MODEL = [name for name, one in HARDENINGS.items() if not one.serves.isdisjoint(MODEL_MODES)]
"""The hardenings that serve modes of the model. Each row of the table is held for one of both kinds of modes."""
_AT_ONCE = 4


def are_exactly_its_modes(wb: Workbench, root: Path, hardening: str, modes: Collection[str]) -> None:
    """Assert that of these modes those that a hardening serves are not kept without it, and all others are.

    Many experiments at once make a small machine late, so what is not as expected is looked at again, alone.
    """
    with ExitStack() as stack:
        stack.enter_context(deployed_from(edited_endpoint(root, OFF[hardening])))
        together = _Endpoint(wb, stack, APP)
        apart = cache(partial(_Endpoint, wb, stack, f"{APP}-apart"))  # deployed for whoever needs it
        alone = [one for one in modes if EXPERIMENTS[one].alone]
        if alone:
            apart()  # before many things go on at once
        pool = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
        company = _in_company([one for one in modes if not EXPERIMENTS[one].alone])
        seen = [pool.submit(together.looked_at, row) for row in company]
        broken = apart().looked_at(alone) if alone else {}
        for future in seen:
            broken |= future.result()
        for one, said in broken.items():
            if said is None or bool(said) != (one in HARDENINGS[hardening].serves):
                broken[one] = apart().broken(one)
        alone_there = [one for one in OWN_CLOUD_MODES if one in HARDENINGS[hardening].serves]
        own = {one: _broken_in_its_own_cloud(wb.failures, one) for one in alone_there}
    red = {one: said for one, said in [*broken.items(), *own.items()] if said}
    assert set(red) == HARDENINGS[hardening].serves & {*modes, *own}, red


def _broken_in_its_own_cloud(lab: FailureLab, name: str) -> str:
    """As `_broken`, for a mode that has a cloud of its own: what is deployed there comes from where this works."""
    result = lab.run(name)
    assert result.status == "completed", str(result)
    return "" if result.verdict == result.promise else result.said["hardened"]


class _Endpoint:
    """The hardened side, deployed until the stack's end. That it is well without any fault is seen once."""

    def __init__(self, wb: Workbench, stack: ExitStack, app_name: str) -> None:
        self._lab = wb.failures
        self._side = Hardened(wb.target, wb.faults)
        self._side.app_name = app_name
        stack.callback(stop_apps, app_name)
        self._side.deploy(lambda line: None)
        self._turn = Lock()
        self._well: dict[bool, Observation] = {}

    def looked_at(self, modes: Iterable[str]) -> dict[str, str | None]:
        """Of each mode what `broken` says, one after the other; None where that did not come to its end."""
        found: dict[str, str | None] = {}
        for one in modes:
            try:
                found[one] = self.broken(one)
            except Exception:  # noqa: BLE001  # it is looked at again, and told then
                found[one] = None
        return found

    def broken(self, name: str) -> str:
        """What was seen in place of the promise; empty when it is kept. A fault that does not fire shows neither."""
        for _ in range(2):  # on a machine that is busy a fault may come too late for its job
            well = self._without_any_fault(with_claude=bool(EXPERIMENTS[name].turns))
            result = self._lab._seen(self._side, EXPERIMENTS[name], well, self._lab._faults())
            if all(fault.injected for fault in result.fired):
                verdict, said = result.judged(find(name), EXPERIMENTS[name])
                return "" if verdict == find(name).promise else said
        raise AssertionError(f"{name}: the fault never fired: {result.fired}")

    def _without_any_fault(self, *, with_claude: bool) -> Observation:
        with self._turn:
            if with_claude not in self._well:
                well = _well_with_claude(self._side) if with_claude else _well(self._side)
                assert well.ended == "done", f"without any fault it {well}"
                self._well[with_claude] = well
            return self._well[with_claude]
