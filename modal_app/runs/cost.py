"""An estimate of what a run's sandbox costs on Modal, by the prices at modal.com/pricing in 2025.

Only the default reservation of a sandbox is counted, 0.125 cores and 128 MiB; what a job uses beyond that is not.
"""

from modal_app.contract.proof import Cost

CORE_S_USD = 0.00003942  # one physical core of a sandbox for one second
GIB_S_USD = 0.00000672  # one GiB of memory for one second
_CORES = 0.125
_GIB = 0.125
_BASIS = f"{_CORES} cores at {CORE_S_USD:.8f} and {_GIB} GiB at {GIB_S_USD:.8f} USD a second; an estimate"


def estimate(sandbox_s: float) -> Cost:
    """The estimated cost, in US dollars, of a sandbox that lived for `sandbox_s` seconds."""
    return Cost(
        sandbox_s=round(sandbox_s, 3),
        usd=round(sandbox_s * (_CORES * CORE_S_USD + _GIB * GIB_S_USD), 9),
        basis=_BASIS,
    )
