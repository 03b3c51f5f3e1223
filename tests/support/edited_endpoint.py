"""A copy of the endpoint with edits in it, deployed as if it stood in the place of ours."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import modal_app
from workbench.deployment import modal_command

Edit = tuple[str, str, str]
"""A file below `modal_app`, a text that it has, and what stands there instead."""


def edited_endpoint(root: Path, edits: Iterable[Edit]) -> Path:
    """Copy `modal_app` into a directory, and edit the copy; an edit whose text is not there any more fails."""
    shutil.copytree(Path(modal_app.__file__).parent, root / "modal_app", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in edits:
        path = root / "modal_app" / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has another text now: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return root


@contextmanager
def deployed_from(root: Path) -> Iterator[None]:
    """Have what is deployed while the block lasts come from this directory, by interpreters that know no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(modal_command, "_command", lambda arguments: [sys.executable, "-m", "modal", *arguments])
        yield
