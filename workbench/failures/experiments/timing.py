"""Failure modes of time limits, brought about."""

from workbench.failures.experiments.basics import Experiment, lied, running, told

TIME: dict[str, Experiment] = {
    "process-timeout": Experiment(
        act=running("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", timeout_s=2),
        harm=lied("the program had not ended"),
        broken=told("process_timeout"),
    ),
}
