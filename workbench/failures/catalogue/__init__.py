"""The catalogue of failure modes: what each looks like, what people take it for, its cause, and what is promised of it.

The texts stand in one YAML file for each family. They are data: nothing in them is run.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import log
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import WorkbenchError

Family = Literal["streaming", "model-wire", "model-meaning", "persistence", "time", "life", "security"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Promise = Literal["prevented", "survived", "told"]
Fidelity = Literal["measured", "documented", "reported", "inferred"]
PROMISES: dict[Promise, str] = {
    "prevented": "nothing of it is noticed",
    "survived": "the same result, later",
    "told": "it fails by the right name, once, and nothing is left",
}


class UnknownFailureError(WorkbenchError):
    """There is no failure mode of this name; the message has the nearest ones."""


class Link(BaseModel):
    """Where something was reported or is documented: `what` names it (`owner/repository#number`, a page's title)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(min_length=3, max_length=120)
    says: str = Field(min_length=3, max_length=200)


class Failure(BaseModel):
    """One failure mode, in words for an engineer who meets it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="what one sees or searches for, never the mechanism"
    )
    family: Family
    promise: Promise
    fidelity: tuple[Fidelity, ...] = Field(min_length=1, description="how well the cause is known")
    aliases: tuple[str, ...] = Field((), description="other words that people use for it")
    errors: tuple[str, ...] = Field((), description="texts that stand in logs and on screens")
    symptom: str = Field(min_length=10, description="what one sees")
    first_guess: str = Field(min_length=3, description="what most people take it for, and why that is wrong")
    cause: str = Field(min_length=10)
    provoked: str = Field(min_length=5, description="how it is brought about here")
    naive: str = Field(min_length=5, description="what an endpoint of sixty obvious lines does")
    invariant: str = Field(min_length=10, description="what holds at the hardened endpoint")
    find: str = Field(min_length=5, description="one command or look that tells it in one's own system")
    story: str = Field("", description="where it was met, in two sentences")
    links: tuple[Link, ...] = ()
    looks_like: tuple[str, ...] = Field((), description="names of modes with the same symptom and another cause")

    @model_validator(mode="after")
    def _is_not_its_own_double(self) -> "Failure":
        if self.name in self.looks_like:
            raise ValueError("it looks like itself")
        return self

    def text(self) -> str:
        """Everything that a search looks through, in lower case."""
        words = (self.name, *self.aliases, *self.errors, self.symptom, self.first_guess, self.cause, self.family)
        return " ".join(words).lower()


@cache
def catalogue() -> dict[str, Failure]:
    """Every failure mode by its name, family by family. Raises ValueError for a file that is wrong."""
    found: dict[str, Failure] = {}
    for family in FAMILIES:
        text = files(__package__).joinpath(f"{family}.yaml").read_text(encoding="utf-8")
        for fields in yaml.safe_load(text):
            failure = Failure.model_validate({"family": family, **fields})
            if failure.name in found:
                raise ValueError(f"{family}.yaml: {failure.name} is there twice")
            found[failure.name] = failure
    unknown = {name for one in found.values() for name in one.looks_like} - found.keys()
    if unknown:
        raise ValueError(f"the catalogue points to what it has not: {', '.join(sorted(unknown))}")
    return found


def find(name: str) -> Failure:
    """The failure mode of a name or an alias. Raises UnknownFailureError."""
    known = catalogue()
    if name in known:
        return known[name]
    wanted = name.strip().lower()
    for one in known.values():
        if wanted in (alias.lower() for alias in one.aliases):
            return one
    aliases = {alias.lower(): one.name for one in known.values() for alias in one.aliases}
    near = get_close_matches(wanted, [*known, *aliases], n=3, cutoff=0.5)
    near = list(dict.fromkeys([aliases.get(word, word) for word in near] + [one.name for one in search([wanted])]))[:3]
    meant = f"did you mean {' or '.join(near)}?" if near else "`workbench failures list` has them all"
    raise UnknownFailureError(f"there is no failure mode '{name[:100]}': {meant}")


def search(words: Iterable[str], *, family: str | None = None) -> list[Failure]:
    """The failure modes in whose texts all of these words are, in the order of the catalogue.

    When there are none, as for a line that was copied from a log, the ones that fit best come first: those whose error
    text is in it, then those that have most of its words, where a rare word counts for more than a common one.
    """
    wanted = [word.lower() for word in words]
    among = [one for one in catalogue().values() if family is None or one.family == family]
    exact = [one for one in among if all(word in one.text() for word in wanted)]
    return exact or _nearest(" ".join(wanted), among)


def _nearest(line: str, among: list[Failure]) -> list[Failure]:
    quoted = [one for one in among if any(text.lower() in line for text in (*one.errors, *one.aliases))]
    asked = set(_WORD.findall(line))
    known = {one.name: set(_WORD.findall(one.text())) for one in catalogue().values()}
    weight = {word: log(len(known) / (0.5 + sum(word in has for has in known.values()))) for word in asked}
    whole = sum(weight.values()) or 1.0
    fit = {one.name: sum(weight[word] for word in asked & known[one.name]) / whole for one in among}
    near = sorted(
        (one for one in among if fit[one.name] >= _FITS and one not in quoted), key=lambda one: -fit[one.name]
    )
    return [*quoted, *near][:_MOST_NEAR]


_WORD = re.compile(r"[a-z0-9_]+")
_FITS = 0.15
_MOST_NEAR = 5
