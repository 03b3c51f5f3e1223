"""`workbench bench`: every figure beside a baseline of the same run."""

import typer


def bench() -> None:
    """Measure."""
    raise typer.Exit(1)
