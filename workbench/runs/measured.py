"""What a run's sandbox used of memory and processors over time, where the platform tells it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """What was used at most from `from_ms` until `to_ms` of the run: MiB of memory, and processor cores."""

    from_ms: int
    to_ms: int
    memory_mib: float
    cores: float


@dataclass(frozen=True)
class Measured:
    """What was used over time; where nothing is known, `note` tells why."""

    uses: tuple[Use, ...] = ()
    note: str = ""

    @property
    def told(self) -> str:
        """The greatest use in one sentence, or why none is known."""
        if not self.uses:
            return self.note
        memory, cores = max(one.memory_mib for one in self.uses), max(one.cores for one in self.uses)
        return f"at most {memory:.0f} MiB and {cores:.1f} cores"


NOTHING = Measured(note="what it used is not told here")
