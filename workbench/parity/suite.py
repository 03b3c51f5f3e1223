"""The run of the suite: each row on the first target, then on the second, and what came of it."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from workbench.parity import targets
from workbench.parity.catalogue import AREAS, ParityError, Row, catalogue
from workbench.parity.observing import Observation, observe
from workbench.parity.report import Report, compared


def chosen(areas: Sequence[str] = (), names: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows of these areas and those of these names (`AREA/ROW`); all rows where nothing is named.

    Raises ParityError for an area or a row that there is not.
    """
    named = [name.partition("/")[0] for name in names if name.partition("/")[0] in AREAS]
    rows = catalogue([*areas, *named] or AREAS)
    if unknown := [name for name in names if name not in {row.key for row in rows}]:
        raise ParityError(f"there is no row '{unknown[0]}' here: `workbench parity --list` has all")
    return tuple(row for row in rows if row.area in areas or row.key in names or not (areas or names))


def compare(
    rows: Sequence[Row],
    *,
    with_modal: bool = False,
    on_row: Callable[[str, Row, Observation], None] = lambda side, row, observation: None,
) -> Report:
    """Compare a new local cloud with Modal, or with another new local cloud whose settings are others.

    `on_row` is called with the name of the target and each row as it is known there. Raises TargetUnavailableError.
    """
    began = time.monotonic()
    observed = []
    names = []
    second = targets.modal if with_modal else targets.other_local
    if with_modal:
        with targets.modal():
            pass  # a missing token is told before anything runs
    for side in (targets.local, second):
        with side() as one:
            names.append(one.name)
            observed.append(observe(rows, one.env, on_row=partial(on_row, one.name)))
    return Report(
        first=names[0],
        second=names[1],
        rows=compared(rows, observed[0], observed[1]),
        took_s=round(time.monotonic() - began, 3),
    )
