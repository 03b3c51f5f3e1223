"""What the browser's tests measure of a page's looks: whether everybody can read it, and how its toolbars break."""

import json
from typing import Any, Literal

from playwright.sync_api import Page

BAD = ("serious", "critical")
# Placed absolutely, JupyterLab leaves its body without height, and axe-core takes all of it for hidden.
_STANDS = "html, body { height: 100%; }"
_FOUND = """async (what) => {
    const why = (node) => [...node.any, ...node.all, ...node.none].map((one) => one.message).join('; ');
    const told = ({ id, impact, nodes }) =>
        nodes.map((node) => ({ id, impact, what: node.html.slice(0, 160), why: why(node) }));
    const contrast = 'color-contrast';
    const rules = {
        all: {},
        contrast: { runOnly: [contrast] },
        structure: { rules: { [contrast]: { enabled: false } } },
    }[what];
    const resultTypes = what === 'structure' ? ['violations'] : ['violations', 'passes'];
    const options = { ...rules, resultTypes, selectors: false, preload: false }; // nobody reads selectors
    const { violations, passes } = await axe.run({ include: [['.wb']] }, options);
    const contrasts = passes.find((one) => one.id === contrast)?.nodes.length ?? 0;
    return { violations: violations.flatMap(told), contrasts };
}"""
_LONE = """() => [...document.querySelectorAll('.wb .wb-bar, .wb .wb-tabs')].flatMap((bar) => {
    const inner = (one) => (one.classList.contains('wb-together') ? leaves(one) : [one]);
    const leaves = (node) => [...node.children].flatMap(inner);
    const lines = [];
    if (!bar.checkVisibility()) return [];
    for (const one of leaves(bar)) {
        const { top, bottom, width, height } = one.getBoundingClientRect();
        if (!width || !height || !one.checkVisibility()) continue;
        const line = lines.find((line) => top < line.bottom - 4 && bottom > line.top + 4);
        if (line) line.all.push(one);
        else lines.push({ top, bottom, all: [one] });
    }
    const alone = lines.filter(({ all }) => all.length === 1 && all[0].matches('button, select'));
    return lines.length > 1 ? alone.map(({ all }) => `${bar.className}: ${all[0].textContent.slice(0, 40)}`) : [];
})"""


Looked = Literal["all", "contrast", "structure"]


def what_hinders(page: Page, axe: str, looked: Looked = "all") -> list[dict[str, Any]]:
    """What axe-core finds serious in the workbench's widgets as they stand; `axe` is its source.

    It looks at all that it knows, at contrast alone, which takes most of its time, or at all the rest.
    """
    if page.evaluate("() => !window.axe"):
        page.add_style_tag(content=_STANDS)
        page.evaluate(axe)
    page.mouse.move(2, 2)  # nothing is hovered over
    found = page.evaluate(_FOUND, looked)
    assert looked == "structure" or found["contrasts"] > 10, "axe-core saw hardly any text"
    return [one for one in found["violations"] if one["impact"] in BAD]


def lone_buttons(page: Page) -> list[str]:
    """Buttons that stand alone in a line of a toolbar which has more lines."""
    return list(page.evaluate(_LONE))


def told(found: list[dict[str, Any]]) -> str:
    """Findings, one a line."""
    return "\n".join(json.dumps(one) for one in found)
