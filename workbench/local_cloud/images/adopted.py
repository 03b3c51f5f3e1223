"""Packages of the cloud's own environment that meet what an image asks for: which they are, and how it gets them.

They are copied with all that they need, so that an image holds what it asks for without an index or a network. An
image into which an installer has put anything is left to the installer, which knows what fits together there.
"""

import shutil
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from workbench.local_cloud.images import layouts

# Tools of the base image that a build here brings by itself.
_TOOLS = frozenset(("pip", "wheel", "uv"))
_SCRIPT = """#!{python}
import sys
from {module} import {top}
sys.exit({attribute}())
"""


def satisfied(requirements: list[str]) -> list[str] | None:
    """What of the cloud's own environment meets some requirements with all that those require, as `name==version`.

    None when they are not met: then an installer has to look for them.
    """
    met: dict[str, str] = {}
    try:
        wanted = [requirement for text in requirements if (requirement := Requirement(text)).name not in _TOOLS]
        waiting = [requirement for requirement in wanted if _applies(requirement, {""})]
        asked = set()
        while waiting:
            requirement = waiting.pop()
            if str(requirement) in asked:
                continue
            asked.add(str(requirement))
            found = metadata.distribution(requirement.name)
            if requirement.url is not None or not requirement.specifier.contains(found.version, prereleases=True):
                return None
            if not found.files or '"editable"' in (found.read_text("direct_url.json") or ""):
                return None
            extras = {"", *requirement.extras}
            if not set(map(canonicalize_name, requirement.extras)) <= set(
                map(canonicalize_name, found.metadata.get_all("Provides-Extra") or ())
            ):
                return None
            met[canonicalize_name(requirement.name)] = found.version
            waiting += [needed for text in found.requires or () if _applies(needed := Requirement(text), extras)]
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return None
    return [f"{name}=={version}" for name, version in sorted(met.items())]


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def adopt(names: list[str], environment: Path) -> int:
    """Copy installed packages into an environment of the same Python, their programs too; returns how many files."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    count = 0
    for name in names:
        found = metadata.distribution(name)
        for file in found.files or ():
            source = Path(str(found.locate_file(file)))
            if ".." in file.parts or file.is_absolute() or not source.is_file():
                continue  # programs are made anew: theirs lead to the cloud's interpreter
            compiled = Path(cache_from_source(str(source))) if source.suffix == ".py" else source
            for path in {source, compiled}:
                if path.is_file():
                    target = packages / file.parent / path.relative_to(source.parent)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
                    count += 1
        for entry in found.entry_points.select(group="console_scripts"):
            script = environment / "bin" / entry.name
            top = entry.attr.partition(".")[0]
            script.write_text(_SCRIPT.format(python=layouts.PYTHON, module=entry.module, top=top, attribute=entry.attr))
            script.chmod(0o755)
    return count
