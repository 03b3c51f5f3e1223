"""Copies packages from the cloud's own Python environment into an image, where they meet the image's requirements.

They are copied with their dependencies, so that such an image needs neither a package index nor a network. Once an
installer has put anything into an image, only the installer is used: it knows which versions fit together.
"""

import shutil
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from workbench.local_cloud.images import layouts

# Tools that every base image has: requirements of them are met.
_TOOLS = frozenset(("pip", "wheel", "uv"))
_SCRIPT = """#!{python}
import sys
from {module} import {top}
sys.exit({attribute}())
"""


def satisfied(requirements: list[str]) -> list[str] | None:
    """Return the cloud's own packages that meet `requirements`, with all their dependencies, as `name==version`.

    Requirements are texts as in a requirements file. None when the cloud's packages do not meet them all, so that an
    installer is needed.
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
    """Copy the cloud's packages `names`, with their console scripts, into an environment of the same Python version.

    Returns how many files were copied. Raises OSError.
    """
    (packages,) = environment.glob("lib/python3*/site-packages")
    count = 0
    for name in names:
        found = metadata.distribution(name)
        for file in found.files or ():
            source = Path(str(found.locate_file(file)))
            if ".." in file.parts or file.is_absolute() or not source.is_file():
                continue  # scripts are written below: the installed ones start the cloud's interpreter
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
            script.write_text(
                _SCRIPT.format(python=layouts.PYTHON, module=entry.module, top=top, attribute=entry.attr),
                encoding="utf-8",
            )
            script.chmod(0o755)
    return count
