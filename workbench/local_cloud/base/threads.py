"""Runs in a thread what writes files that somebody removes afterwards."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Given = ParamSpec("Given")


async def to_its_end(function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Call a function in a thread; when the caller is cancelled, wait for its end first.

    A thread cannot be ended: it would go on writing to what its caller removes. Raises what the function raises.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
