"""The static form of a run view: how the run ended, its timeline, its last output, its proof."""

import html

from workbench.runs.claude_messages import tail
from workbench.runs.inputs import described
from workbench.runs.view_state import ViewState, usage_of
from workbench.text.plain_text import one_line
from workbench.text.static_html import preformatted
from workbench.widgets.displays import Still
from workbench.widgets.run_view.source import Source

_COLOURS = {"done": "#2e7d32", "error": "#c62828", "refused": "#c62828", "lost": "#c62828"}


def still(source: Source, proof: list[dict[str, object]], proof_note: str) -> Still:
    """The static form of a source as it is now."""
    state = source.state
    name = state.run_id or "(not accepted yet)"
    bars, output = source.timeline.lines(), tail(source.events)
    checks = [f"{'✓' if check['ok'] else '✗'} {check['name']}: {check['detail']}" for check in proof] or [proof_note]
    escaped = "".join(
        f'<div style="margin-top:6px;color:#777">{title}</div>'
        f"{preformatted(text, 'margin:0;max-height:300px;overflow:auto')}"
        for title, text in _parts(source, output, "\n".join(checks))
    )
    line = ", ".join(filter(None, [source.fault if state.ended else "", headline(state)]))
    colour = _COLOURS.get(state.condition, "#616161")
    return Still(
        html=f'<div class="workbench-run"><strong style="color:{colour}">{state.condition}</strong> '
        f"<code>{html.escape(name)}</code> {html.escape(line)}{escaped}</div>",
        plain="\n".join(filter(None, [f"Run {name}: {state.condition}, {line}", *bars, output, *checks])),
    )


def _parts(source: Source, output: str, proof: str) -> list[tuple[str, str]]:
    parts = [
        ("input", described(source.request) if source.request is not None else ""),
        ("timeline", "\n".join(source.timeline.lines())),
        ("output, its end", output),
        ("proof", proof),
    ]
    return [(title, text) for title, text in parts if text]


def headline(state: ViewState) -> str:
    """The facts of a run on one line."""
    code = f"exit code {state.exit_code}" if state.exit_code is not None else ""
    reason = f"{state.code}: {one_line(state.message)}" if state.code else ""
    words = [state.reason] if state.reason else []
    took = f"{state.elapsed_ms / 1000:.1f} s, {state.events} events" if state.elapsed_ms < 10**15 else ""
    return ", ".join(filter(None, [*words, reason, code, took, usage_of(state)]))
