"""The progress of a soak, kept in a small file, so that an interrupted soak can be continued.

Every random choice of a soak follows from its seed and the number of the round, so only seed and counts are kept.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from workbench.errors import WorkbenchError

Phase = Literal["cycles", "concurrent", "kills"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class ProgressUnreadableError(WorkbenchError):
    """The file does not hold the progress of a soak; the message says why."""


@dataclass
class Progress:
    """The seed of a soak and, by phase, the rounds `asked` for, those `done`, and the seconds that they took."""

    seed: int
    asked: dict[Phase, int]
    done: dict[Phase, int]
    seconds: dict[Phase, float]

    @classmethod
    def new(cls, seed: int, asked: dict[Phase, int]) -> "Progress":
        """The progress of a soak that has not begun."""
        return cls(seed, asked, dict.fromkeys(PHASES, 0), dict.fromkeys(PHASES, 0.0))

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read a progress from its file; raises ProgressUnreadableError."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            int(found.seed)
            whole = all(set(part) == set(PHASES) for part in (found.asked, found.done, found.seconds))
        except (OSError, ValueError, TypeError) as error:
            raise ProgressUnreadableError(f"{path} holds no progress of a soak: {error}") from error
        if not whole:
            raise ProgressUnreadableError(f"{path} holds no progress of a soak: a phase is missing")
        return found

    def save(self, path: Path) -> None:
        """Write the progress to a file, atomically."""
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)
