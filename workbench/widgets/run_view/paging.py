"""What a page gets of a run's output: the newest rows as they come, and of the others what it asks for.

A page asks with messages that have the number of the question, `ask`, which the answer repeats; every answer is of
bounded size. A question may be asked again until its answer is `whole`: a search goes on a little each time. What no
page asks is ignored. Everything happens in the widget's own thread.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.runs.lines import Row
from workbench.runs.output_index import CHANNELS, OutputIndex
from workbench.runs.row_selection import Everything, Matching, Selection
from workbench.runs.view_state import ViewState
from workbench.text.plain_text import visible
from workbench.widgets.run_view.drawn import packed
from workbench.widgets.run_view.source import Source

TAIL_ROWS = 2000  # that are sent at once as they come; a page asks for those before them
SNAPSHOT_ROWS = 20_000  # that a new page gets, which it has when the kernel has ended
WINDOW_ROWS = 512  # in one answer
COPY_ROWS, COPY_CHARS = 100_000, 8 * 1024 * 1024
MAX_SOUGHT = 1000  # characters
_LINE_CHARS = 200  # by which a line is known
_REASONS = 64  # rows with the words of the reason, of which the newest are looked at
LOOKING_S = 0.15  # for one answer
_SELECTIONS = 8  # that are kept up to date
_MOST = 2**53

Send = Callable[[dict[str, Any], list[bytes]], None]
_Spec = tuple[tuple[str, ...], str, str | None, str]  # hidden channels, filter, what is searched for, which alarms


class Paging:
    """Tells one widget's pages of the output of its run."""

    def __init__(self, source: Source, send: Send) -> None:
        self._source = source
        self._send = send
        self._index: OutputIndex | None = None
        self._selections: OrderedDict[_Spec, Selection] = OrderedDict()
        self._sent = 0  # rows of which the page knows the number
        self._grew: frozenset[int] = frozenset()  # rows that were open when they were sent

    def tail(self, seqs: Sequence[int], withdrawn: Sequence[str] = ()) -> None:
        """Send what has come since the last call: the events with these numbers, and the rows that grew."""
        index = self._now()
        changed = {number for number in self._grew if number < self._sent}
        for block in withdrawn:
            changed.update(index.of_block(block)[-TAIL_ROWS:])
        self._tell(index, sorted(changed), {"first": seqs[0], "last": seqs[-1], "events": len(seqs)})

    def snapshot(self, ask: int = 0) -> None:
        """Send the newest rows, in the place of all that the page has."""
        index = self._now()
        self._sent = 0
        events = {"first": index.first_seq, "last": index.last_seq, "events": index.events}
        self._tell(index, (), events, reset=True, ask=ask)

    def answer(self, message: Mapping[str, Any]) -> None:
        """Answer a page's question; anything else is ignored."""
        match message:
            case {"type": "rows", "ask": int(ask), "from": int(start), "count": int(count)} if 0 < count <= WINDOW_ROWS:
                if (spec := _filter(message)) is not None and -1 <= start < _MOST:
                    self._window(ask, spec, start, count)
            case {"type": "match", "ask": int(ask), "number": int(number), "by": -1 | 0 | 1 as by}:
                if (spec := _filter(message)) is not None and -1 <= number < _MOST:
                    self._match(ask, spec, message.get("sought"), number, by, stay=message.get("stay") is True)
            case {"type": "body", "ask": int(ask), "number": int(number)}:
                self._body(ask, number)
            case {"type": "copy", "ask": int(ask), "unfolded": list(unfolded)}:
                if (spec := _filter(message)) is not None:
                    self._copy(ask, spec, {one for one in unfolded[:WINDOW_ROWS] if isinstance(one, int)})

    def _now(self) -> OutputIndex:
        """The run's output; a playback that jumps back has another one."""
        index = self._source.output
        if index is not self._index:
            self._index, self._sent, self._grew = index, 0, frozenset()
            self._selections.clear()
        return index

    def _tell(
        self, index: OutputIndex, changed: Sequence[int], events: dict[str, int], *, reset: bool = False, ask: int = 0
    ) -> None:
        total, still = index.total, index.open
        newest = SNAPSHOT_ROWS if reset else TAIL_ROWS
        numbers = [*changed, *range(max(self._sent, total - newest, index.first), total)]
        numbers, rows = _kept(index, numbers)
        self._sent, self._grew = total, still
        told = {**events, "total": total, **_known(index)}
        self._send({"type": "tail", "reset": reset, "ask": ask, **told}, [packed(numbers, rows, newest=True)])

    def _window(self, ask: int, spec: _Spec, start: int, count: int) -> None:
        index = self._now()
        chosen = self._selection(spec)
        chosen.advance(LOOKING_S)
        begin, end = chosen.begin, chosen.end
        start = max(begin, end - count if start < 0 else min(start, end))
        numbers, rows = _kept(index, chosen.numbers(start, min(end, start + count)))
        told = {"from": start, "begin": begin, "end": end, "whole": chosen.whole, **_known(index)}
        self._send({"type": "rows", "ask": ask, **told}, [packed(numbers, rows)])

    def _match(self, ask: int, spec: _Spec, sought: object, number: int, by: int, *, stay: bool) -> None:
        """The match after a row or before it, round and round, or with `stay` the row itself if it is one."""
        if sought is not None and not (isinstance(sought, str) and 0 < len(sought) <= MAX_SOUGHT):
            return
        self._now()
        chosen = self._selection(spec)
        hits = self._hits(spec, sought)
        chosen.advance(LOOKING_S)
        hits.advance(LOOKING_S)
        reason, told = self._reason(spec) if sought is None and by > 0 else (None, True)
        found = _next(hits, number, by, stay=stay) if reason in (None, number) else reason
        if found is None and by > 0 and not hits.whole and isinstance(hits, Matching):
            found = hits.first_after(number - stay, LOOKING_S)
        if not told:
            found = None  # where the reason stands is not known yet
        place = None if found is None or not chosen.knows(found) else chosen.place(found)
        at = None if found is None or not hits.knows(found) else hits.place(found) - hits.begin
        answer = {"number": found if place is not None else None, "place": place, "at": at}
        whole = hits.whole and chosen.whole and told
        self._send({"type": "match", "ask": ask, **answer, "total": hits.end - hits.begin, "whole": whole}, [])

    def _hits(self, spec: _Spec, sought: str | None) -> Selection:
        """What is searched for, among the rows that pass the filter; None: what tells of an error."""
        hidden, wanted, _, _ = spec
        if sought is not None:
            return self._selection((hidden, wanted, visible(sought), ""))
        worst = self._selection((hidden, wanted, None, "worst"))
        worst.advance(LOOKING_S)
        return (
            worst if worst.end > worst.begin or not worst.whole else self._selection((hidden, wanted, None, "stderr"))
        )

    def _reason(self, spec: _Spec) -> tuple[int | None, bool]:
        """The number of the row that tells why the program failed, and whether all rows were looked at.

        None where none of those that pass the filter does.
        """
        line = reason_line(self._source.state)
        if not line:
            return None, True
        hidden, wanted, _, _ = spec
        told = self._selection((hidden, wanted, line, "stderr"))
        told.advance(LOOKING_S)
        newest = told.numbers(max(told.begin, told.end - _REASONS), told.end)
        numbers, rows = _kept(self._now(), newest)
        exact = [one for one, row in zip(numbers, rows, strict=True) if row.text.strip(" |+")[:_LINE_CHARS] == line]
        found = exact or numbers
        return (found[-1] if found else None), told.whole

    def _body(self, ask: int, number: int) -> None:
        _, rows = _kept(self._now(), [number])
        text = rows[0].body if rows else ""
        self._send({"type": "body", "ask": ask, "number": number}, [text.encode(errors="replace")])

    def _copy(self, ask: int, spec: _Spec, unfolded: set[int]) -> None:
        """The newest of the rows that pass, as text, as many as are copied at once."""
        index = self._now()
        chosen = self._selection(spec)
        chosen.advance(LOOKING_S)
        begin, end = chosen.begin, chosen.end
        lines: list[str] = []
        count = size = 0
        while chosen.whole and end - count > begin and count < COPY_ROWS and size < COPY_CHARS:
            stop = end - count
            start = max(begin, stop - min(WINDOW_ROWS, COPY_ROWS - count))
            numbers, rows = _kept(index, chosen.numbers(start, stop))
            for number, row in zip(reversed(numbers), reversed(rows), strict=True):
                lines += reversed(row.body.split("\n")) if row.body and number in unfolded else ()
                lines.append(row.text)
                size += len(row.text)
            count += stop - start
        text = "\n".join(reversed(lines)).encode(errors="replace")
        told = {"lines": len(lines), "rows": count, "of": end - begin, "whole": chosen.whole}
        self._send({"type": "copy", "ask": ask, **told}, [text])

    def _selection(self, spec: _Spec) -> Selection:
        found = self._selections.pop(spec, None) or _select(self._now(), spec)
        self._selections[spec] = found
        if len(self._selections) > _SELECTIONS:
            self._selections.popitem(last=False)
        return found


def reason_line(state: ViewState) -> str:
    """The beginning of the line that tells why the program failed, by which its row is known; "" where none does."""
    return visible(state.reason_line)[:_LINE_CHARS]


def _known(index: OutputIndex) -> dict[str, Any]:
    """What a page is told each time: how many rows are no longer kept, and whether any row tells of something wrong."""
    return {"forgotten": index.first, "alarms": index.alarms > 0}


def _kept(index: OutputIndex, numbers: Sequence[int]) -> tuple[list[int], list[Row]]:
    """Those of some rows that are still kept."""
    with index:
        kept = [number for number in numbers if index.first <= number < index.total]
        return kept, index.rows(kept)


def _filter(message: Mapping[str, Any]) -> _Spec | None:
    """What a question says of the filter; None when no page says it so."""
    hidden, wanted = message.get("hidden"), message.get("wanted")
    if not isinstance(hidden, list) or len(hidden) > len(CHANNELS):
        return None
    if not isinstance(wanted, str) or len(wanted) > MAX_SOUGHT:
        return None
    if not all(isinstance(one, str) and one in CHANNELS for one in hidden):
        return None
    return (tuple(sorted(set(hidden))), visible(wanted), None, "")


def _select(index: OutputIndex, spec: _Spec) -> Selection:
    hidden, wanted, sought, alarms = spec
    if spec == ((), "", None, ""):
        return Everything(index)

    def takes(channel: str, kind: str) -> bool:
        if ("status" if channel == "done" else channel) in hidden and channel != "error":
            return False
        worst = channel == "error" or kind == "failure"
        return {"": True, "worst": worst, "stderr": channel == "stderr"}[alarms]

    return Matching(index, [wanted, sought or ""], takes)


def _next(hits: Selection, number: int, by: int, *, stay: bool) -> int | None:
    """The number of the match after a row or before it; None when there is none, or it is not known yet."""
    begin, end = hits.begin, hits.end
    at = hits.place(number)
    here = begin <= at < end and hits.numbers(at, at + 1)[0] == number
    if here and (stay or by == 0):
        return number
    if by == 0 or begin == end:
        return None
    place = at + here if by > 0 else at - 1
    if not begin <= place < end:  # round and round, when the other end is known
        if not hits.whole:
            return None
        place = begin if by > 0 else end - 1
    elif by < 0 and not (hits.whole or hits.knows(number)):
        return None
    return hits.numbers(place, place + 1)[0]
