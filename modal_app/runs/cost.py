"""What a run's sandbox is estimated to cost on Modal, by the prices that modal.com/pricing gave in 2025.

A sandbox that asks for nothing has 0.125 cores and 128 MiB reserved; what it uses beyond is not counted here.
"""

from modal_app.contract.proof import Cost

CORE_S_USD = 0.00003942  # a physical core of a sandbox for a second
GIB_S_USD = 0.00000672
_CORES = 0.125
_GIB = 0.125
_BASIS = f"{_CORES} cores at {CORE_S_USD:.8f} and {_GIB} GiB at {GIB_S_USD:.8f} USD a second; an estimate"


def estimate(sandbox_s: float) -> Cost:
    """The cost of a sandbox that lived so long."""
    return Cost(
        sandbox_s=round(sandbox_s, 3),
        usd=round(sandbox_s * (_CORES * CORE_S_USD + _GIB * GIB_S_USD), 9),
        basis=_BASIS,
    )
