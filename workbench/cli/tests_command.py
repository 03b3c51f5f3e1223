"""`workbench test`: runs the project's own tests, in three tiers, on up to three workers."""

import importlib.util
import os
import secrets
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import failing, prepare, say
from workbench.machine.prerequisites import RUN, TEST

_ROOT = Path(__file__).resolve().parents[2]
_GROUP = ("xdist", "pytest_timeout", "pytest_asyncio", "pytest_randomly", "hypothesis", "playwright", "jsonschema")
_WORKERS = 3  # also on two processors, because a test waits for a third of its time
_LONGEST_PATH = 1024
_SEED = 629400472  # one shuffled order for everybody, so that a run fails of a change; at night it is a new one
# Plugins that other packages bring, which no test of ours needs: each worker would import them.
_UNUSED = ("-p", "no:nbval", "-p", "no:anyio")


class Tier(StrEnum):
    """Which tests are run: each tier includes the ones before it. Its own tests are in `tests/TIER`."""

    QUICK = "quick"
    STANDARD = "standard"
    NIGHTLY = "nightly"


def run_tests(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Passed on to pytest, e.g. `-k volumes`; files or tests take the place of a tier."),
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the fast tests, without a cloud, browser or notebook: for every save.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="All tests, including those of the night: large matrices, long soaks, nbval, JavaScript."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="How many processes run tests; 0: this one. [default: at most 3; 0 if files are given]"
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Run in an order that no run has had, whose seed is printed.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Run in the order of this seed.")] = _SEED,
) -> None:
    """Check prerequisites, then run the tests: every promise once, each notebook and the browser included.

    `--quick` runs the fast tests, `--all` also those of the night; the default is in between. Each tier includes the
    ones below it.
    """
    if not (_ROOT / "tests").is_dir():
        _refuse("the tests are not installed; run this in a checkout of the project")
    if quick and everything:
        _refuse("--quick and --all are two tiers: ask for one of them")
    if missing := [name for name in _GROUP if importlib.util.find_spec(name) is None]:
        _refuse(f"{', '.join(missing)} missing: `uv run workbench test` brings them, or `pip install --group test`")
    tier = Tier.QUICK if quick else Tier.NIGHTLY if everything else Tier.STANDARD
    with failing():
        prepare(RUN if tier == Tier.QUICK else TEST)
    os.chdir(_ROOT)
    command = [sys.executable, "-m", "pytest", *_UNUSED, *_selected(tier, arguments or [], workers)]
    command += ["-p", "randomly", f"--randomly-seed={secrets.randbelow(2**32) if random else seed}"]
    say(f"running {shlex.join(['pytest', *command[3:]])}")
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606  # replaces this process, so that signals reach pytest


def _selected(tier: Tier, arguments: list[str], workers: int | None) -> list[str]:
    """The arguments for pytest: the tier's folders; or the files that are given, which are run without workers."""
    given = any(map(_is_place, arguments))
    tiers = list(Tier)
    folders = [] if given else [f"tests/{one}" for one in tiers[: tiers.index(tier) + 1]]
    here = given or any(word.startswith(("--pdb", "--trace")) for word in arguments)
    count = workers if workers is not None else 0 if here else min(_WORKERS, (os.cpu_count() or 1) + 1)
    # A worker that dies is not replaced: another one would only begin with the same test again.
    beside = ["-n", str(count), "--max-worker-restart", "0"] if count else []
    return [*folders, *beside, *arguments]


def _is_place(word: str) -> bool:
    """Whether a word names files or tests, rather than being an option or an option's value."""
    path = word.partition("::")[0].rstrip("/")
    return path.split("/")[0] in ("tests", "notebooks") and len(path) < _LONGEST_PATH and (_ROOT / path).exists()


def _refuse(why: str) -> None:
    typer.echo(f"error: {why}", err=True)
    raise typer.Exit(2)
