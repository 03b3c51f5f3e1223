"""How long the parts of a run took, from its events alone: a span for each phase, and the steps that were measured."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modal_app.contract.events import TERMINAL, Event, Phase, StatusEvent, StreamEvent, Timings
from workbench.runs.claude_spans import ClaudeSpan, claude_spans
from workbench.text.plain_text import one_line

TOLERANCE_MS = 1000  # by which the steps of two runs of the same job may differ and count as equally long


@dataclass(frozen=True)
class Span:
    """The start and end of a phase or step, in milliseconds since the run was accepted; negative before that."""

    name: str
    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        """The length in milliseconds."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True)
class Step(Span):
    """A step of a phase that the endpoint has measured; a step without a phase came before the run was accepted."""

    phase: str | None


# A field of `Timings`, the step's name, and the phase at whose start it begins. None: it ends when the run is accepted.
_STEPS: tuple[tuple[str, str, Phase | None], ...] = (
    ("container_start_ms", "container start", None),
    ("queue_ms", "queue", Phase.QUEUED),
    ("sandbox_create_ms", "sandbox create", Phase.SANDBOX_STARTING),
    ("sandbox_ready_ms", "sandbox ready", Phase.SANDBOX_STARTING),
    ("first_byte_ms", "first byte", Phase.RUNNING),
    ("run_ms", "run", Phase.RUNNING),
    ("commit_ms", "commit", Phase.COMMITTING),
    ("terminate_ms", "terminate", Phase.TERMINATING),
)


@dataclass(frozen=True)
class Timeline:
    """The spans of a run's phases, and the time of its first output, None when there was none.

    `steps` are the steps whose `Timings` are known, `claude` what the model of a Claude job did within `running`.
    """

    spans: tuple[Span, ...]
    first_output_ms: int | None
    total_ms: int
    steps: tuple[Step, ...] = ()
    claude: tuple[ClaudeSpan, ...] = ()

    def lines(self, width: int = 40) -> list[str]:
        """A waterfall chart in plain text: one line for each phase, with its steps below it; bars are `width` wide."""
        begin_ms = min((span.start_ms for span in (*self.spans, *self.steps)), default=0)
        whole_ms = max(1, self.total_ms - begin_ms)
        names = max(17, min(40, max((len(name) for name, _ in self.rows()), default=0)))
        drawn = []
        for name, span in self.rows():
            # Whole numbers only: those in an archive may be too large for floats.
            start = min(width - 1, (span.start_ms - begin_ms) * width // whole_ms)
            length = min(width - start, max(1, (span.length_ms * width + whole_ms // 2) // whole_ms))
            bar = " " * start + "█" * length
            detail = f"  {span.detail}" if isinstance(span, ClaudeSpan) and span.detail else ""
            drawn.append(f"{one_line(name, names):<{names}} {bar:<{width}} {span.length_ms:>6} ms{detail}")
        return drawn

    def rows(self) -> Iterator[tuple[str, Span | ClaudeSpan]]:
        """Names and spans in the order in which they are drawn; names of what is within a phase are indented."""
        begun: set[str | None] = set()
        for span in (None, *self.spans):
            if span is not None:
                yield span.name, span
            phase = None if span is None else span.name
            if phase in begun:  # a run can wait for its project, and then for its turn: its steps stand below the first
                continue
            begun.add(phase)
            yield from ((f"  {step.name}", step) for step in self.steps if step.phase == phase)
            if phase == Phase.RUNNING:
                yield from ((f"  {'  ' * one.depth}{one.name}", one) for one in self.claude)


def timeline(events: Iterable[Event]) -> Timeline:
    """The timeline of a run's events; the last phase ends with the last event."""
    starts: list[tuple[str, int]] = []
    first_output: int | None = None
    last = 0
    known: dict[str, int] = {}
    events = tuple(events)
    for event in events:
        last = event.elapsed_ms
        if isinstance(event, StatusEvent) and event.retry is None:
            starts.append((str(event.phase), event.elapsed_ms))
        elif isinstance(event, StreamEvent) and first_output is None:
            first_output = event.elapsed_ms
        if isinstance(event, (StatusEvent, *TERMINAL)) and event.timings is not None:
            known |= event.timings.model_dump(exclude_none=True)
    ends = [start for _, start in starts[1:]] + [last] * bool(starts)
    spans = tuple(Span(name, start, end) for (name, start), end in zip(starts, ends, strict=True))
    return Timeline(spans, first_output, last, _steps(Timings(**known), dict(reversed(starts))), claude_spans(events))


def _steps(timings: Timings, starts: dict[str, int]) -> tuple[Step, ...]:
    """The steps whose length is known and whose phase has come, each with its start."""
    steps = []
    for field, name, phase in _STEPS:
        length: int | None = getattr(timings, field)
        if length is None or (phase is not None and phase not in starts):
            continue
        begin = starts[phase] if phase is not None else -length
        if field == "sandbox_ready_ms":
            begin += timings.sandbox_create_ms or 0
        steps.append(Step(name, begin, begin + length, phase))
    return tuple(steps)
