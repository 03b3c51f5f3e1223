"""What brings failure modes about: an experiment for each that can be shown here, in a module for each family."""

from workbench.errors import WorkbenchError
from workbench.failures.experiments.basics import Experiment, Outcome
from workbench.failures.experiments.life import LIFE
from workbench.failures.experiments.model import MODEL
from workbench.failures.experiments.own_clouds import OWN_CLOUDS
from workbench.failures.experiments.persistence import PERSISTENCE
from workbench.failures.experiments.security import SECURITY
from workbench.failures.experiments.streaming import STREAMING
from workbench.failures.experiments.timing import TIME

__all__ = ["EXPERIMENTS", "Experiment", "NotProvokedError", "Outcome", "experiment_of"]

EXPERIMENTS: dict[str, Experiment] = {**STREAMING, **MODEL, **PERSISTENCE, **TIME, **LIFE, **SECURITY, **OWN_CLOUDS}


class NotProvokedError(WorkbenchError):
    """A mode that is in the catalogue, and that nothing here brings about yet."""


def experiment_of(name: str) -> Experiment:
    """The experiment of a mode. Raises NotProvokedError."""
    if name not in EXPERIMENTS:
        raise NotProvokedError(
            f"nothing brings '{name}' about yet: `workbench failures show {name}` says how it is provoked by hand"
        )
    return EXPERIMENTS[name]
