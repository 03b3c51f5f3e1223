"""Draws a result: what both endpoints' clients saw, as two timelines on one axis, from before the fault to after it.

The picture is static, so that it stands in a notebook's output without a kernel, and on paper. Every text is escaped.
"""

import html
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from workbench.failures.observation import Observation, SideName
from workbench.failures.side_results import Badge, SideResult
from workbench.text.plain_text import one_line

_LEFT, _WIDTH, _RIGHT = 120, 590, 260  # the names, the axis, the ends in words
_LANE = 26
_HEAD = 22
_GOOD, _WARN, _BAD, _TICK = (
    f"var(--jp-{name}-color0, {plain})"
    for name, plain in (("success", "#1b5e20"), ("warn", "#a65300"), ("error", "#b71c1c"), ("brand", "#0d47a1"))
)
_COLOURS = {"done": _GOOD, "error": _WARN, "refused": _WARN, "cut": _BAD, "silent": _BAD, "left": _WARN}
_QUIET = "opacity:0.75"
_Scale = Callable[[float], float]
"""From a moment, in Unix seconds, to its place in the picture."""
_MOST_TICKS = 400  # in one timeline; those that would stand on each other are left out


def html_of(
    name: str, *, verdict: str, good: bool, head: str, texts: tuple[str, str], badges: Sequence[Badge], picture: str
) -> str:
    """A result as HTML: the verdict, the symptom in words, the picture, what had to hold, and the invariant.

    All but `picture` is escaped here.
    """
    items = "".join(
        f"<li style='margin:2px 0'>{_badge('holds' if one.ok else 'does not hold', one.ok)} "
        f"{_text(one.name)}: <span style='{_QUIET}'>{_text(one.detail)}</span></li>"
        for one in badges
    )
    return (
        "<div style='font-family:var(--jp-ui-font-family,sans-serif);font-size:13px;line-height:1.45;max-width:960px'>"
        f"<div><strong>{_text(name)}</strong> {_badge(verdict, good)} <span style='{_QUIET}'>{_text(head)}</span>"
        f"</div><p style='margin:4px 0'>{_text(texts[0], 600)}</p>{picture}"
        f"<ul style='list-style:none;padding:0;margin:6px 0'>{items}</ul>"
        f"<p style='margin:4px 0;{_QUIET}'>{_text(texts[1], 600)}</p></div>"
    )


def picture_of(sides: Sequence[SideResult], lied: Collection[SideName], words: str) -> str:
    """The two timelines as SVG, with `words` for who cannot see it; nothing without sides.

    A blue mark is output, a red line is the fault, the end stands behind each bar: red where it is a lie of `lied`.
    """
    seen = [one for side in sides for one in (side.before, *side.observations)]
    if not seen:
        return ""
    begin = min(one.began_at for one in seen)
    length = max(0.1, max(one.ended_at for one in seen) - begin)

    def x(at: float) -> float:
        return round(_LEFT + _WIDTH * min(1.0, max(0.0, (at - begin) / length)), 1)

    parts: list[str] = []
    y = _HEAD
    for side in sides:
        top = y
        for observation in (side.before, *side.observations):
            false = side.side in lied and observation is side.observations[-1]
            parts += _lane(side, observation, x, y, false=false)
            y += _LANE
        for at in [at for one in side.fired for at in one.at]:
            parts.append(
                f"<line x1='{x(at)}' x2='{x(at)}' y1='{top}' y2='{y - 4}' stroke-dasharray='3 2' style='stroke:{_BAD}'>"
                "<title>the fault</title></line>"
            )
        y += 8
    parts += _axis(x, begin, length, y)
    width, height = _LEFT + _WIDTH + _RIGHT, y + 18
    return (
        f"<svg role='img' aria-label='{_text(words, 400)}' viewBox='0 0 {width} {height}' width='100%' "
        f"style='max-width:{width}px' font-family='inherit' font-size='11' fill='currentColor'>{''.join(parts)}</svg>"
    )


def _lane(side: SideResult, seen: Observation, x: _Scale, y: int, *, false: bool) -> list[str]:
    """One request: its name, a bar from the request to the end, a mark for each output, and the end in words."""
    name = side.side if seen is side.before else ""
    what = "without" if seen is side.before else "with"
    colour = _BAD if false else _COLOURS[seen.ended]
    words = f"{seen}: not so" if false and seen.ended == "done" else str(seen)
    began, ended = x(seen.began_at), x(seen.ended_at)
    width = max(2.0, ended - began)
    parts = [
        f"<text x='0' y='{y + 13}' font-weight='600'>{_text(name)}</text>",
        f"<text x='{_LEFT - 8}' y='{y + 13}' text-anchor='end' style='{_QUIET}'>{what}</text>",
        f"<rect x='{began}' y='{y + 5}' width='{width}' height='10' rx='2' fill='currentColor' opacity='0.2'>",
        f"<title>{what} the fault: {seen.took_s:.1f} s</title></rect>",
    ]
    places = [x(seen.began_at + one.at_s) for one in seen.events if one.what == "text"][:_MOST_TICKS]
    apart = places[:1] + [here for before, here in pairwise(places) if here - before >= 0.5]
    parts += [f"<rect x='{at}' y='{y + 5}' width='1.5' height='10' style='fill:{_TICK}'/>" for at in apart]
    parts.append(f"<circle cx='{ended}' cy='{y + 10}' r='4.5' style='fill:{colour}'/>")
    parts.append(f"<text x='{ended + 9}' y='{y + 14}' style='fill:{colour}'>{_text(words, 60)}</text>")
    return parts


def _axis(x: _Scale, begin: float, length: float, y: int) -> list[str]:
    step = next(one for one in (0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 1e9) if length / one <= 10)
    parts = [f"<line x1='{_LEFT}' x2='{_LEFT + _WIDTH}' y1='{y}' y2='{y}' stroke='currentColor' style='{_QUIET}'/>"]
    at = 0.0
    while at <= length:
        here = x(begin + at)
        parts.append(f"<line x1='{here}' x2='{here}' y1='{y}' y2='{y + 3}' stroke='currentColor' style='{_QUIET}'/>")
        parts.append(f"<text x='{here}' y='{y + 14}' text-anchor='middle' style='{_QUIET}'>{at:g} s</text>")
        at = round(at + step, 3)
    return parts


def _badge(word: str, good: bool) -> str:
    colour = _GOOD if good else _BAD
    return (
        f"<span style='border:1px solid {colour};color:{colour};border-radius:9px;padding:0 7px;font-size:12px;"
        f"font-weight:600'>{_text(word)}</span>"
    )


def _text(words: str, at_most: int = 200) -> str:
    return html.escape(one_line(words, at_most), quote=True)
