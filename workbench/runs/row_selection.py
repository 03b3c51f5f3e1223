"""Which rows of a run's output pass a filter, or have what is searched for: found bit by bit, and kept up to date.

A selection numbers its rows by place, from 0 on. A place stays a row's own, unless an older line grows until it passes.
Letter case makes no difference. Not for use by several threads at once.
"""

import time
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from typing import Protocol

from workbench.runs.output_index import CODES, OutputIndex, Stretch

_EVERY = frozenset(range(len(CODES)))


class Selection(Protocol):
    """Some of the rows of an index."""

    @property
    def begin(self) -> int:
        """The place of the first row that is still kept."""

    @property
    def end(self) -> int:
        """The place that the next row will have."""

    @property
    def whole(self) -> bool:
        """Whether all rows that there are now have been looked at."""

    def advance(self, seconds: float) -> None:
        """Look at rows that were not looked at yet, for about so long."""

    def numbers(self, start: int, stop: int) -> Sequence[int]:
        """The numbers of the rows in these places."""

    def place(self, number: int) -> int:
        """The place of the first row whose number is not lower."""

    def knows(self, number: int) -> bool:
        """Whether all rows up to this one have been looked at."""


class Everything:
    """All rows: a row's place is its number."""

    whole = True

    def __init__(self, index: OutputIndex) -> None:
        self._index = index

    @property
    def begin(self) -> int:
        """The number of the first row that is kept."""
        return self._index.first

    @property
    def end(self) -> int:
        """The number that the next row will have."""
        return self._index.total

    def advance(self, seconds: float) -> None:
        """Do nothing."""

    def numbers(self, start: int, stop: int) -> Sequence[int]:
        """The places themselves."""
        return range(start, stop)

    def place(self, number: int) -> int:
        """The number itself, if that row is there."""
        return max(self.begin, min(self.end, number))

    def knows(self, number: int) -> bool:
        """Yes."""
        return True


class Matching:
    """The rows with one of some codes that have all of some texts, in the line or its body."""

    def __init__(
        self, index: OutputIndex, texts: Sequence[str] = (), takes: Callable[[str, str], bool] = lambda *_: True
    ) -> None:
        """`takes` says of a channel and a kind whether their rows may pass."""
        self._index = index
        self._texts = [text.casefold() for text in texts if text]
        self._codes = frozenset(code for code, pair in enumerate(CODES) if takes(*pair))
        self._others = bytes(_EVERY - self._codes)
        self._found = array("q")
        self._gone = 0
        self._next = 0
        self._growing: set[int] = set()  # rows that did not pass, and may when they have grown

    @property
    def begin(self) -> int:
        """The place of the first row that is still kept."""
        self._forget()
        return self._gone

    @property
    def end(self) -> int:
        """The place that the next row will have."""
        return self._gone + len(self._found)

    @property
    def whole(self) -> bool:
        """Whether all rows that there are now have been looked at."""
        return self._next >= self._index.total

    def advance(self, seconds: float) -> None:
        """Look at rows that were not looked at yet, for about so long, and again at those that have grown."""
        deadline = time.monotonic() + seconds
        self._forget()
        self._look_again()
        while not self.whole:
            self._next = max(self._next, self._index.first)
            try:
                stretch = self._index.stretch(self._next)
            except LookupError:  # forgotten just now
                self._forget()
                continue
            found = self._passing(stretch)
            self._found.extend(found)
            self._growing.update(stretch.open.difference(found))
            self._next = stretch.first + len(stretch.codes)
            if time.monotonic() > deadline:
                return

    def first_after(self, number: int, seconds: float) -> int | None:
        """The first row after this one, by number, also if those before were not looked at; None if it takes long."""
        deadline = time.monotonic() + seconds
        at = max(number + 1, self._index.first)
        while at < self._index.total and time.monotonic() < deadline:
            try:
                stretch = self._index.stretch(at)
            except LookupError:  # forgotten just now
                at = max(at, self._index.first)
                continue
            if found := self._passing(stretch):
                return found[0]
            at = stretch.first + len(stretch.codes)
        return None

    def numbers(self, start: int, stop: int) -> Sequence[int]:
        """The numbers of the rows in these places."""
        return self._found[max(0, start - self._gone) : max(0, stop - self._gone)]

    def place(self, number: int) -> int:
        """The place of the first row whose number is not lower."""
        return self._gone + bisect_left(self._found, number)

    def knows(self, number: int) -> bool:
        """Whether all rows up to this one have been looked at."""
        return self._next > number

    def _passing(self, stretch: Stretch) -> Sequence[int]:
        here = range(stretch.first, stretch.first + len(stretch.codes))
        left = len(stretch.codes.translate(None, self._others))
        if not left:
            return ()
        codes = None if left == len(here) else stretch.codes
        if not self._texts:
            return here if codes is None else [at for at, code in zip(here, codes, strict=True) if code in self._codes]
        records = stretch.records.casefold()
        if not all(text in records for text in self._texts):
            return ()
        rows = records.split("\n")
        first, *others = self._texts
        found = [place for place, row in enumerate(rows) if first in row]
        for text in others:
            found = [place for place in found if text in rows[place]]
        return [stretch.first + place for place in found if codes is None or codes[place] in self._codes]

    def _look_again(self) -> None:
        for number in sorted(self._growing):
            try:
                stretch = self._index.stretch(number)
                still = number in stretch.open
            except LookupError:
                self._growing.discard(number)
                continue
            passes = bool(self._passing(Stretch(number, stretch.codes[:1], stretch.records.partition("\n")[0])))
            if passes:
                insort(self._found, number)
            if passes or not still:
                self._growing.discard(number)

    def _forget(self) -> None:
        count = bisect_right(self._found, self._index.first - 1)
        if count:
            del self._found[:count]
            self._gone += count
