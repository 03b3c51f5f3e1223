"""Interprets image definitions: what this machine already offers is accepted, everything else is refused by name.

Why: no container engine is needed on an engineer's laptop. In this first cut pip layers must be satisfied by the
interpreter that the cloud runs with, apt layers by the host; both are checked when the image is created, so that a
missing package is told at deploy time with the command that brings it, and never met in a running container.
"""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib import metadata

from modal_proto import api_pb2
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from workbench.local_cloud.ids import new_id
from workbench.local_cloud.rpc.failures import not_found
from workbench.local_cloud.store.database import Database

# The SDK's debian_slim installs compilers for packages without wheels; nothing is compiled here.
_COMPILERS = frozenset(("gcc", "gfortran", "build-essential"))

_DDL = """
CREATE TABLE IF NOT EXISTS images (
  image_id TEXT PRIMARY KEY, definition BLOB NOT NULL UNIQUE, env TEXT NOT NULL, workdir TEXT, log TEXT NOT NULL,
  failure TEXT NOT NULL
);
"""


@dataclass
class Interpretation:
    """What a chain of layers means here: environment, working directory, a log, and why it is refused if it is."""

    env: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    log: list[str] = field(default_factory=list)
    failure: str = ""


class Images:
    """Images by id; equal definitions share one."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def create(self, image: api_pb2.Image) -> str:
        """Interpret an image once and return its id."""
        key = image.SerializeToString(deterministic=True)
        row = self._db.one("SELECT image_id, failure FROM images WHERE definition=?", (key,))
        if row is not None and not row["failure"]:
            return str(row["image_id"])
        result = self._interpret(image)
        image_id = row["image_id"] if row is not None else new_id("im")
        self._db.execute(
            "INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?)",
            (image_id, key, json.dumps(result.env), result.workdir, "\n".join(result.log), result.failure),
        )
        return str(image_id)

    def get(self, image_id: str) -> Interpretation:
        """What an image means; raises RpcFailure NOT_FOUND."""
        row = self._db.one("SELECT * FROM images WHERE image_id=?", (image_id,))
        if row is None:
            raise not_found(f"Image {image_id} not found.")
        return Interpretation(json.loads(row["env"]), row["workdir"], row["log"].splitlines(), row["failure"])

    def _interpret(self, image: api_pb2.Image) -> Interpretation:
        result = Interpretation()
        for base in image.base_images:
            parent = self.get(base.image_id)
            result.env.update(parent.env)
            result.workdir = parent.workdir or result.workdir
            result.failure = result.failure or parent.failure
        if image.HasField("build_function"):
            result.failure = "run_function layers are not implemented by the local cloud."
        for command in _joined(image.dockerfile_commands):
            result.log.append(command)
            problem = _apply(command, result)
            if problem and not result.failure:
                result.failure = f"{problem} The layer was: {command}"
        return result


def _joined(lines: object) -> list[str]:
    text = "\n".join(str(line) for line in lines)  # type: ignore[attr-defined]  # a protobuf repeated field
    text = re.sub(r"\\\n", " ", text)
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _apply(command: str, result: Interpretation) -> str:
    """Apply one Dockerfile line; returns why it cannot be, or an empty string."""
    keyword, _, rest = command.partition(" ")
    match keyword.upper():
        case "FROM" | "LABEL" | "EXPOSE" | "SHELL" | "ARG" | "USER" | "CMD" | "ENTRYPOINT":
            return ""
        case "COPY" | "ADD":
            return _copy(rest)
        case "ENV":
            for key, value in _env_pairs(rest):
                result.env[key] = value
            return ""
        case "WORKDIR":
            result.workdir = rest.strip().strip('"')
            return ""
        case "RUN":
            return "".join(filter(None, (_run(part.strip()) for part in re.split(r"&&|;", rest))))
        case _:
            return f"{keyword} is not interpreted by the local cloud."


def _copy(rest: str) -> str:
    # The SDK's own base layers copy its requirement lists; they are checked as pip layers are.
    return "" if "/modal_requirements.txt" in rest or "/.uv" in rest else "COPY is not interpreted by the local cloud."


def _env_pairs(rest: str) -> list[tuple[str, str]]:
    words = shlex.split(rest)
    if words and "=" not in words[0]:
        return [(words[0], " ".join(words[1:]))]
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def _run(command: str) -> str:
    try:
        words = shlex.split(re.sub(r"--mount=\S+", "", re.sub(r"\$\(command -v (\w+)\)", r"\1", command)))
    except ValueError:
        return "This step cannot be read."
    if not words or words[0] in ("rm", "true", "mkdir", "echo"):
        return ""
    joined = " ".join(words)
    if "pip install" in joined:
        return _pip(words[words.index("install") + 1 :])
    if words[0] in ("apt-get", "apt"):
        return _apt(words[1:])
    return f"'{words[0]}' is not interpreted by the local cloud."


def _pip(arguments: list[str]) -> str:
    problems = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith("-"):
            skip = argument in ("-r", "--requirement", "--find-links", "--index-url", "--extra-index-url", "--python")
            continue
        if argument in ("pip", "wheel", "setuptools", "uv") or argument.startswith(("pip", "wheel", "uv")):
            continue
        try:
            requirement = Requirement(argument)
            installed = metadata.version(canonicalize_name(requirement.name))
        except InvalidRequirement:
            problems.append(f"'{argument}' is not a requirement the local cloud can check.")
        except metadata.PackageNotFoundError:
            problems.append(f"{argument} is not installed here: run `uv pip install '{argument}'`.")
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                problems.append(f"{argument} is wanted, {installed} is installed: run `uv pip install '{argument}'`.")
    return " ".join(problems)


def _apt(arguments: list[str]) -> str:
    if not arguments or arguments[0] != "install":
        return ""
    wanted = [name for name in arguments[1:] if not name.startswith("-") and name not in _COMPILERS]
    missing = [name for name in wanted if not _on_host(name)]
    return f"not installed on this machine: run `sudo apt-get install -y {' '.join(missing)}`." if missing else ""


def _on_host(package: str) -> bool:
    if shutil.which(package):
        return True
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    return "install ok installed" in found.stdout
