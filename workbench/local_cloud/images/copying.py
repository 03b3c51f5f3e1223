"""COPY: copies files of a build context into an image's tree, by Docker's rules for sources and destinations.

Only the host writes to both directories, so no link in them leads out of them.
"""

import shutil
from pathlib import Path, PurePosixPath

from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.plans import Copy


def copy_into(context: Path, tree: Path, step: Copy) -> int:
    """Carry out one COPY and return how many files it copied.

    Raises RefusedError for a source that does not exist, and for a destination that clashes with another file.
    """
    count = 0
    for source in step.sources:
        found = _matches(context, source)
        if not found:
            raise RefusedError(f"COPY: '{source}' is not in the build context. Add it, or correct the path.")
        for path in found:
            if path.is_dir():
                for file in sorted(path.rglob("*")):
                    if file.is_file():
                        _lay(file, tree, step.destination / file.relative_to(path).as_posix(), step.mode)
                        count += 1
            else:
                into = step.into or len(found) > 1 or (tree / str(step.destination).lstrip("/")).is_dir()
                _lay(path, tree, step.destination / path.name if into else step.destination, step.mode)
                count += 1
    return count


def _matches(context: Path, source: str) -> list[Path]:
    relative = source.lstrip("/").removeprefix("./").rstrip("/")
    if relative in ("", "."):
        return [context]
    if (context / relative).exists():
        return [context / relative]
    return sorted(context.glob(relative))


def _lay(source: Path, tree: Path, path: PurePosixPath, mode: int | None) -> None:
    inside = layouts.target(str(path), workdir="/")
    destination = tree / str(inside).lstrip("/")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = destination.with_name(f".{destination.name[:100]}.new")
        shutil.copyfile(source, temporary)
        temporary.chmod((mode if mode is not None else source.stat().st_mode & 0o755) | 0o444)
        temporary.replace(destination)  # never written in place: the file may be a hard link to the parent image's
    except (IsADirectoryError, NotADirectoryError, FileExistsError):
        raise RefusedError(f"COPY: {inside} cannot be a file and a directory at once.") from None
