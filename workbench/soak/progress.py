"""How far a soak has come, kept in a small file, so that an interrupted one goes on where it stopped.

Every choice of a soak follows from its seed and the number of the round; so seed and counts are all there is to keep.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from workbench.errors import WorkbenchError

Phase = Literal["cycles", "concurrent", "kills"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class ProgressUnreadableError(WorkbenchError):
    """The file is not one of these."""


@dataclass
class Progress:
    """Counts by phase: rounds `asked` for and `done`, and the seconds they took."""

    seed: int
    asked: dict[Phase, int]
    done: dict[Phase, int]
    seconds: dict[Phase, float]

    @classmethod
    def new(cls, seed: int, asked: dict[Phase, int]) -> "Progress":
        """Nothing is done yet."""
        return cls(seed, asked, dict.fromkeys(PHASES, 0), dict.fromkeys(PHASES, 0.0))

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read it back; raises ProgressUnreadableError."""
        try:
            found = cls(**json.loads(path.read_text()))
            int(found.seed)
            whole = all(set(part) == set(PHASES) for part in (found.asked, found.done, found.seconds))
        except (OSError, ValueError, TypeError) as error:
            raise ProgressUnreadableError(f"{path} holds no progress of a soak: {error}") from error
        if not whole:
            raise ProgressUnreadableError(f"{path} holds no progress of a soak: a phase is missing")
        return found

    def save(self, path: Path) -> None:
        """Write it so that a reader sees the old or the new, never a part."""
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)
