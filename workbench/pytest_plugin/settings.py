"""The plugin's settings: each is an option of pytest's command line and of its configuration file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

UNAVAILABLE = ("fail", "skip")
_START_TIMEOUT_S = 60.0
HELP = {
    "modal_log_dir": "the directory for the local cloud's log, modal-cloud.log; under xdist, modal-cloud-WORKER.log. "
    "Default: pytest's own temporary directory, which stays for three runs.",
    "modal_unavailable": "what becomes of the tests where no local cloud can run: fail (the default) or skip.",
    "modal_install": "install system packages that the local cloud lacks, with apt, as root or by password-less sudo.",
    "modal_start_timeout": f"how many seconds the local cloud may take to start (default: {_START_TIMEOUT_S:g}).",
}


@dataclass(frozen=True)
class Settings:
    """What the options and the configuration say. `log_dir` is None where nothing was said."""

    log_dir: Path | None
    unavailable: str
    install: bool
    start_timeout_s: float


def add_options(parser: pytest.Parser) -> None:
    """Tell pytest of the settings, with what `pytest --help` says of them."""
    group = parser.getgroup("modal-workbench", "Modal programs on a local cloud (modal-workbench)")
    for name, told in HELP.items():
        how: dict[str, Any] = {"metavar": name.removeprefix("modal_").upper()}
        if name == "modal_install":
            parser.addini(name, told, type="bool")
            how = {"action": "store_true"}
        else:
            parser.addini(name, told)
        group.addoption(f"--{name.replace('_', '-')}", dest=name, default=None, help=told, **how)


def read(config: pytest.Config) -> Settings:
    """Read the settings, the options before the configuration file. Raises pytest.UsageError, which says what is."""
    unavailable = _given(config, "modal_unavailable") or "fail"
    if unavailable not in UNAVAILABLE:
        raise pytest.UsageError(f"modal_unavailable is {unavailable!r}: it must be {' or '.join(UNAVAILABLE)}")
    timeout = _given(config, "modal_start_timeout") or _START_TIMEOUT_S
    try:
        start_timeout_s = float(timeout)
    except ValueError:
        start_timeout_s = 0.0
    if not 0 < start_timeout_s < float("inf"):
        raise pytest.UsageError(f"modal_start_timeout is {timeout!r}: it must be a number of seconds above 0")
    return Settings(
        log_dir=_log_dir(config),
        unavailable=unavailable,
        install=bool(config.getoption("modal_install") or config.getini("modal_install")),
        start_timeout_s=start_timeout_s,
    )


def _given(config: pytest.Config, name: str) -> str:
    return str(config.getoption(name) or config.getini(name) or "")


def _log_dir(config: pytest.Config) -> Path | None:
    """An option's directory is relative to where pytest was started, the configuration's to its root directory."""
    if option := config.getoption("modal_log_dir"):
        return config.invocation_params.dir / str(option)
    if configured := config.getini("modal_log_dir"):
        return config.rootpath / str(configured)
    return None
