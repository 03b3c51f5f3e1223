"""Tells how far a run of the tests is, and at its end how to run what has failed alone.

In place of a dot for each test: the share that has ended, the time, and what runs for over 20 s. On a terminal one line
that changes, elsewhere a line every 15 s. A failure is told when it happens. `-v` and `-q` bring pytest's own back.
"""

import shlex
import sys
import threading
import time
from collections.abc import Generator, Iterator

import pytest
from _pytest.terminal import TerminalReporter  # its public hooks cannot take the dots away

LONG_S = 20.0  # a test that runs for longer is named
_FIRST_S = 2.0
_EVERY_S = 15.0
_EVERY_ON_TERMINAL_S = 0.5


class Progress:
    """Counts tests as they begin and end, on whichever worker."""

    def __init__(self, reporter: TerminalReporter, *, workers: bool) -> None:
        """Where tests run in this process, what is written while one runs is taken for its output: only ends tell."""
        self._reporter = reporter
        self._workers = workers
        self._told_at = time.monotonic()
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
        self._total = 0
        self._ended = 0
        self._failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._on_terminal = sys.stdout.isatty()
        self._every_s = _EVERY_ON_TERMINAL_S if self._on_terminal else _EVERY_S

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begin, where the tests run in this process."""
        self._begin(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Begin, where they run in workers."""
        self._begin(len(ids))

    def _begin(self, total: int) -> None:
        self._total = self._total or total
        if self._total and not self._thread.is_alive() and not self._over.is_set():
            self._started = time.monotonic()
            if self._workers:
                self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        with self._lock:
            self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended."""
        with self._lock:
            self._running.pop(nodeid, None)
            self._ended += 1
        if not self._workers and time.monotonic() > self._told_at + self._every_s:
            self._told_at = time.monotonic()
            self._print("  ".join(self._line()), passing=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, str], tuple[str, str, str]]:
        """Count as pytest counts, and print no letter."""
        category, _, word = yield
        return category, "", "" if category == "passed" else word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell a failure at once: a run may go on for minutes."""
        if report.failed:
            with self._lock:
                if report.nodeid not in self._failed:
                    self._failed.append(report.nodeid)
            self._print(f"FAILED {report.nodeid} ({report.when})", red=True)

    def pytest_sessionfinish(self) -> None:
        """Stop telling."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5)
        if self._on_terminal:
            self._reporter.write("\r\033[K")

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say how each test that failed is run alone."""
        if self._failed:
            terminalreporter.section("run one of them alone")
            for nodeid in self._failed:
                terminalreporter.write_line(f"uv run workbench test -- {shlex.quote(nodeid)}")

    def _tell(self) -> None:
        pause_s = _FIRST_S
        while not self._over.wait(pause_s):
            pause_s = self._every_s
            self._print("  ".join(self._line()), passing=True)

    def _line(self) -> Iterator[str]:
        now = time.monotonic()
        minutes, seconds = divmod(int(now - self._started), 60)
        with self._lock:
            yield f"[{100 * self._ended // max(1, self._total):3d} %]"
            yield f"{minutes}:{seconds:02d}"
            yield f"{self._ended} of {self._total}"
            if self._failed:
                yield f"{len(self._failed)} failed"
            for nodeid, since in self._running.items():
                if now - since > LONG_S:
                    yield f"{now - since:.0f} s: {nodeid}"

    def _print(self, text: str, *, passing: bool = False, red: bool = False) -> None:
        with self._lock:
            if not self._on_terminal:
                self._reporter.write_line(text, red=red)
            elif passing:
                width = self._reporter._tw.fullwidth
                self._reporter.write(f"\r\033[K{text[: width - 1]}", flush=True)
            else:
                self._reporter.write("\r\033[K")
                self._reporter.write_line(text, red=red)
            sys.stdout.flush()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take the place of the dots; a worker of xdist tells its controller, and nobody else."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.option.verbose != 0:
        return
    reporter.showfspath = False
    workers = bool(config.getoption("numprocesses", None))
    config.pluginmanager.register(Progress(reporter, workers=workers), "workbench-progress")
