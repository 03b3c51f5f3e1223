"""The two endpoints that meet the same failure: the naive one and the hardened one, each an app of the lab's own."""

from workbench.failures.sides.hardened import Hardened
from workbench.failures.sides.naive import CANARY, MODEL_APP, NAIVE_SANDBOX_S, Naive
from workbench.failures.sides.side import APP_PREFIX, PATIENCE_S, Reading, Side, stopped

__all__ = [
    "APP_PREFIX",
    "CANARY",
    "MODEL_APP",
    "NAIVE_SANDBOX_S",
    "PATIENCE_S",
    "Hardened",
    "Naive",
    "Reading",
    "Side",
    "stopped",
]
