"""Processes as the host sees them, by id; whatever ends meanwhile is left out, never an error."""

import psutil


def family(pid: int) -> list[psutil.Process]:
    """A process and all of its descendants; empty when it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []
