"""conda users get the same project, and exact versions stand in one place."""

import re
import tomllib
from importlib import metadata

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_conda_environment_installs_this_project_and_pins_nothing_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    names = [item for item in environment["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert environment["name"] == PYPROJECT["project"]["name"]
    assert "--editable ." in pip
    python = next(Requirement(name) for name in names if name.startswith("python"))
    assert python.specifier == SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert not [name for name in (*names, *pip) if "==" in name]


def test_every_dependency_has_an_exact_pin() -> None:
    """Two machines that install this project install the same."""
    pins = {
        canonicalize_name(pin.name): pin for pin in map(Requirement, PYPROJECT["tool"]["uv"]["constraint-dependencies"])
    }
    groups = [text for group in PYPROJECT["dependency-groups"].values() for text in group if isinstance(text, str)]
    for requirement in map(Requirement, [*PYPROJECT["project"]["dependencies"], *groups]):
        pin = pins[canonicalize_name(requirement.name)]
        assert re.fullmatch(r"==[^*]+", str(pin.specifier)), pin
        assert all(specifier.contains(str(pin.specifier)[2:]) for specifier in requirement.specifier), requirement


def test_what_is_installed_is_what_is_pinned() -> None:
    for pin in map(Requirement, PYPROJECT["tool"]["uv"]["constraint-dependencies"]):
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(metadata.version(pin.name), prereleases=True), pin


def test_no_lock_file_and_no_index_address_is_kept() -> None:
    """A lock file would embed the address of an index."""
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()
    assert "index" not in PYPROJECT["tool"]["uv"]


def test_the_workflow_tests_the_oldest_and_the_newest_python_that_are_claimed() -> None:
    claimed = [name.rpartition(" ")[2] for name in PYPROJECT["project"]["classifiers"] if "Python :: 3." in name]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [claimed[0], claimed[-1]]
    allowed = SpecifierSet(PYPROJECT["project"]["requires-python"])
    minor = int(claimed[-1].partition(".")[2])
    assert [f"3.{number}" for number in range(minor + 5) if f"3.{number}.9" in allowed] == claimed


def test_what_only_tests_need_is_not_installed_with_the_package() -> None:
    """Whoever installs the workbench gets no test tools but those that notebooks are run with."""
    groups = PYPROJECT["dependency-groups"]
    installed = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    tests = {Requirement(text).name for text in groups["test"]}
    assert installed & tests == set()
    assert {"pytest-xdist", "pytest-timeout", "pytest-asyncio", "hypothesis", "playwright", "jsonschema"} <= tests
    assert {"include-group": "test"} in groups["dev"]
