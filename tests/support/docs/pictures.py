"""Draws the pictures of the documentation: one text file each, in lines that say what is where, to one SVG. Pure.

A line is a word and its values; `#` begins a comment. Boxes and groups have names, by which arrows find them:

    picture WIDTH HEIGHT TITLE
    group NAME X Y WIDTH HEIGHT TITLE
    box NAME X Y WIDTH HEIGHT KIND TITLE | LINE | LINE
    arrow NAME.SIDE@PART NAME.SIDE@PART LABEL

PART is how far along its side, from 0 to 1, an arrow begins or ends. Of a sequence picture the lines are

    sequence WIDTH TITLE
    actor NAME TITLE | LINE
    say FROM TO WORDS
    answer FROM TO WORDS
    note NAME WORDS
    part WORDS

and everything follows from their order. A picture has a light ground of its own, so that it reads in both of GitHub's
themes. Raises PictureError with the line that is wrong.
"""

import re
from dataclasses import dataclass
from html import escape
from itertools import pairwise

INK, SOFT, GROUND, EDGE = "#1f2328", "#59636e", "#ffffff", "#d1d9e0"
KINDS = {  # fill and edge of a box
    "caller": ("#f6f8fa", "#818b98"),
    "ours": ("#ddf4ff", "#0969da"),
    "state": ("#fff8c5", "#9a6700"),
    "job": ("#ffebe9", "#cf222e"),
    "outside": ("#f6f8fa", "#818b98"),
}
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
LINE_PX = 18
STEP_PX = 44
_HEAD_PX = 74  # of a sequence: the actors
_STRAIGHT_PX = 2  # ends that differ by less are as one
_END = re.compile(r"(?P<name>\w+)\.(?P<side>left|right|top|bottom)(@(?P<part>[01](\.\d+)?))?")


class PictureError(ValueError):
    """A line that cannot be drawn; the message has its number."""


@dataclass(frozen=True)
class Area:
    """A box or a group."""

    x: float
    y: float
    width: float
    height: float

    def at(self, side: str, part: float) -> tuple[float, float]:
        match side:
            case "left" | "right":
                return self.x + (self.width if side == "right" else 0), self.y + self.height * part
            case _:
                return self.x + self.width * part, self.y + (self.height if side == "bottom" else 0)


def draw(text: str) -> str:
    """The SVG of a picture's text."""
    lines = [
        (number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"
    ]
    if not lines:
        raise PictureError("the picture is empty")
    kind = lines[0][1].split()[0]
    if kind not in ("picture", "sequence"):
        raise PictureError(f"line {lines[0][0]}: a picture begins with `picture` or `sequence`")
    painter = _Plan() if kind == "picture" else _Sequence()
    for number, line in lines:
        word, _, rest = line.partition(" ")
        try:
            getattr(painter, f"on_{word}")(rest)
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise PictureError(f"line {number}: `{line}` cannot be drawn: {error}") from error
    return painter.svg()


class _Plan:
    def __init__(self) -> None:
        self.areas: dict[str, Area] = {}
        self.shapes: list[str] = []
        self.arrows: list[str] = []

    def on_picture(self, rest: str) -> None:
        width, height, self.title = rest.split(maxsplit=2)
        self.size = int(width), int(height)

    def on_group(self, rest: str) -> None:
        area, title = self._area(rest, 5)
        self.shapes.append(_rect(area, GROUND, "#818b98", dashed=True))
        self.shapes.append(_words(area.x + 14, area.y + 24, title, bold=True, colour=SOFT, anchor="start"))

    def on_box(self, rest: str) -> None:
        area, words = self._area(rest, 5)
        kind, words = words.split(maxsplit=1)
        fill, edge = KINDS[kind]
        self.shapes.append(_rect(area, fill, edge))
        title, *more = [part.strip() for part in words.split("|")]
        top = area.y + (area.height - LINE_PX * len(more)) / 2 + 5
        self.shapes.append(_words(area.x + area.width / 2, top, title, bold=True))
        self.shapes += [
            _words(area.x + area.width / 2, top + LINE_PX * row, words, size=12.5) for row, words in enumerate(more, 1)
        ]

    def on_arrow(self, rest: str) -> None:
        first, second, *label = rest.split(maxsplit=2)
        (x, y), out = self._end(first)
        (to_x, to_y), into = self._end(second)
        if min(abs(x - to_x), abs(y - to_y)) < _STRAIGHT_PX:
            points = [(x, y), (to_x, to_y)]
        elif out in ("left", "right") and into in ("left", "right"):
            points = [(x, y), ((x + to_x) / 2, y), ((x + to_x) / 2, to_y), (to_x, to_y)]
        elif out in ("top", "bottom") and into in ("top", "bottom"):
            points = [(x, y), (x, (y + to_y) / 2), (to_x, (y + to_y) / 2), (to_x, to_y)]
        else:
            points = [(x, y), (to_x, y) if out in ("left", "right") else (x, to_y), (to_x, to_y)]
        self.arrows.append(_arrow(points))
        if label:
            start, end = max(pairwise(points), key=lambda pair: abs(pair[0][0] - pair[1][0]))
            upright = abs(start[0] - end[0]) < _STRAIGHT_PX
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            at = (x + 7, y + 4, label[0], "start") if upright else (x, y - 7, label[0], "middle")
            self.arrows.append(_words(*at, size=12, colour=SOFT, halo=True))

    def svg(self) -> str:
        return _document(*self.size, self.title, [*self.shapes, *self.arrows])

    def _area(self, rest: str, values: int) -> tuple[Area, str]:
        name, x, y, width, height, words = rest.split(maxsplit=values)
        self.areas[name] = area = Area(float(x), float(y), float(width), float(height))
        return area, words

    def _end(self, text: str) -> tuple[tuple[float, float], str]:
        found = _END.fullmatch(text)
        if found is None:
            raise ValueError(f"`{text}` is not NAME.SIDE@PART")
        return self.areas[found["name"]].at(found["side"], float(found["part"] or 0.5)), found["side"]


class _Sequence:
    def __init__(self) -> None:
        self.actors: dict[str, list[str]] = {}
        self.rows: list[tuple[str, list[str]]] = []

    def on_sequence(self, rest: str) -> None:
        width, self.title = rest.split(maxsplit=1)
        self.width = int(width)

    def on_actor(self, rest: str) -> None:
        name, words = rest.split(maxsplit=1)
        self.actors[name] = [part.strip() for part in words.split("|")]

    def on_say(self, rest: str) -> None:
        self._row("say", rest, 2)

    def on_answer(self, rest: str) -> None:
        self._row("answer", rest, 2)

    def on_note(self, rest: str) -> None:
        self._row("note", rest, 1)

    def on_part(self, rest: str) -> None:
        self.rows.append(("part", [rest]))

    def svg(self) -> str:
        height = _HEAD_PX + STEP_PX * (len(self.rows) + 1)
        lane = self.width / len(self.actors)
        at = {name: lane * (number + 0.5) for number, name in enumerate(self.actors)}
        shapes = []
        for name, (title, *more) in self.actors.items():
            shapes.append(
                f'<line x1="{at[name]:g}" y1="{_HEAD_PX:g}" x2="{at[name]:g}" y2="{height - 16:g}" '
                f'stroke="{EDGE}" stroke-width="1.5"/>'
            )
            kind = "caller" if name == next(iter(self.actors)) else "job" if name == list(self.actors)[-1] else "ours"
            box = Area(at[name] - lane / 2 + 6, 14, lane - 12, _HEAD_PX - 14)
            shapes.append(_rect(box, *KINDS[kind]))
            top = 14 + (_HEAD_PX - 14) / 2 + 5 - LINE_PX * len(more) / 2
            shapes.append(_words(at[name], top, title, bold=True))
            shapes += [_words(at[name], top + LINE_PX * row, words, size=12) for row, words in enumerate(more, 1)]
        for row, (kind, values) in enumerate(self.rows, 1):
            y = _HEAD_PX + STEP_PX * row
            shapes += self._drawn(kind, values, y, at)
        return _document(self.width, height, self.title, shapes)

    def _drawn(self, kind: str, values: list[str], y: float, at: dict[str, float]) -> list[str]:
        if kind == "part":
            line = f'<line x1="8" y1="{y - 16:g}" x2="{self.width - 8:g}" y2="{y - 16:g}" stroke="{EDGE}"/>'
            return [line, _words(12, y + 4, values[0], bold=True, colour=SOFT, anchor="start")]
        x = at[values[0]]
        if kind == "note":
            return [_words(x, y, values[1], size=12, colour=SOFT, halo=True)]
        to_x = at[values[1]]
        label = _words((x + to_x) / 2, y - 7, values[2], size=12, halo=True)
        return [_arrow([(x, y), (to_x, y)], dashed=kind == "answer"), label]

    def _row(self, kind: str, rest: str, names: int) -> None:
        values = rest.split(maxsplit=names)
        for name in values[:names]:
            if name not in self.actors:
                raise ValueError(f"there is no actor `{name}`")
        if len(values) <= names:
            raise ValueError("the words are missing")
        self.rows.append((kind, values))


def _rect(area: Area, fill: str, edge: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="{area.x:g}" y="{area.y:g}" width="{area.width:g}" height="{area.height:g}" rx="8" '
        f'fill="{fill}" stroke="{edge}" stroke-width="1.5"{dash}/>'
    )


def _words(
    x: float,
    y: float,
    words: str,
    anchor: str = "middle",
    *,
    size: float = 14,
    bold: bool = False,
    colour: str = INK,
    halo: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    ring = f' stroke="{GROUND}" stroke-width="5" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}{ring}>'
        f"{escape(words)}</text>"
    )


def _arrow(points: list[tuple[float, float]], *, dashed: bool = False) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.5"{dash} marker-end="url(#tip)"/>'


def _document(width: float, height: float, title: str, shapes: list[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    tip = f'<path d="M0 0 10 5 0 10z" fill="{SOFT}"/>'
    marker = 'id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    ground = f'width="{width - 1:g}" height="{height - 1:g}" rx="10" fill="{GROUND}" stroke="{EDGE}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">',
        f"<title>{escape(title)}</title>",
        f'<defs><marker {marker} orient="auto-start-reverse">{tip}</marker></defs>',
        f'<rect x="0.5" y="0.5" {ground}/>',
        *shapes,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
