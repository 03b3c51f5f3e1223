"""Finds the images of a program, and asks whether they are built: `python -m workbench.deployment.program_images …`.

A process of its own, since it runs the program's module as `modal deploy` does: `[--build] FILE`, or `[--build] -m
MODULE`. Each line that it prints is a JSON object, an image with its state; what a build prints goes to standard error.
"""

import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import modal
from modal.cli.import_refs import import_file_or_module, parse_import_ref
from modal.exception import ConflictError
from modal.exception import Error as ModalError

_SHOWN_CHARS = 1000


def main() -> int:
    """Print each image of the program; returns 1 when the program cannot be loaded, with the reason as last line."""
    arguments = sys.argv[1:]
    build = "--build" in arguments
    arguments = [word for word in arguments if word != "--build"]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program and its builds print is no answer

    def say(**found: Any) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    try:
        module = import_file_or_module(parse_import_ref(arguments[-1], "-m" in arguments, "deploy"), "modal deploy")
    except Exception as error:  # noqa: BLE001  # a program may raise anything
        say(failed=_told(error.__cause__ or error))
        return 1
    images = dict(images_of(module))
    if not images:
        return 0
    try:
        with modal.enable_output(), modal.App("image-build").run() as app:
            for name, image in images.items():
                state, why = _state(image, app, build=build)
                say(name=name, state=state, why=why)
    except ModalError as error:
        say(failed=_told(error))
        return 1
    return 0


def images_of(module: ModuleType) -> Iterator[tuple[str, modal.Image]]:
    """The images at a module's level, once each: its names, and what stands in its lists, tuples and dicts."""
    seen: set[int] = set()
    for name, value in list(vars(module).items()):
        for place, image in _images_in(name, value):
            if id(image) not in seen:
                seen.add(id(image))
                yield place, image


def _images_in(name: str, value: object) -> Iterator[tuple[str, modal.Image]]:
    if isinstance(value, modal.Image):
        yield name, value
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{number}]", one) for number, one in enumerate(value) if isinstance(one, modal.Image))
    elif isinstance(value, dict) and not name.startswith("__"):
        yield from ((f"{name}[{key!r}]", one) for key, one in value.items() if isinstance(one, modal.Image))


def _state(image: modal.Image, app: modal.App, *, build: bool) -> tuple[str, str]:
    """Whether an image is built, and why not; with `build` it is built if need be."""
    try:
        image.build(app)
    except ConflictError as error:  # the local cloud's answer to who only looks
        return ("failed", _told(error)) if build else ("not built", "")
    except ModalError as error:
        return "failed", _told(error)
    return "built", ""


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_SHOWN_CHARS]


if __name__ == "__main__":
    sys.exit(main())
