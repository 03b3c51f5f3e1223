"""Where a run's time went: one span for each phase, from the events' own clock."""

from collections.abc import Iterable
from dataclasses import dataclass

from modal_app.contract.events import Event, StatusEvent, StreamEvent


@dataclass(frozen=True)
class Span:
    """A phase, in milliseconds since the run was accepted."""

    name: str
    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        """How long it took."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True)
class Timeline:
    """The spans of a run and when its first output came; None when there was none."""

    spans: tuple[Span, ...]
    first_output_ms: int | None
    total_ms: int

    def lines(self, width: int = 40) -> list[str]:
        """A waterfall in plain text, one line for each span."""
        scale = width / max(1, self.total_ms)
        drawn = []
        for span in self.spans:
            start = min(width - 1, int(span.start_ms * scale))
            length = min(width - start, max(1, round(span.length_ms * scale)))
            bar = " " * start + "█" * length
            drawn.append(f"{span.name:<17} {bar:<{width}} {span.length_ms:>6} ms")
        return drawn


def timeline(events: Iterable[Event]) -> Timeline:
    """Build a run's timeline; the last phase ends with the last event."""
    starts: list[tuple[str, int]] = []
    first_output: int | None = None
    last = 0
    for event in events:
        last = event.elapsed_ms
        if isinstance(event, StatusEvent):
            starts.append((str(event.phase), event.elapsed_ms))
        elif isinstance(event, StreamEvent) and first_output is None:
            first_output = event.elapsed_ms
    ends = [start for _, start in starts[1:]] + [last] * bool(starts)
    spans = tuple(Span(name, start, end) for (name, start), end in zip(starts, ends, strict=True))
    return Timeline(spans, first_output, last)
