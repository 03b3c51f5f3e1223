"""Which files of the documentation are made, and what stands in them."""

from pathlib import Path

from tests.support.docs import pictures, reference
from tests.support.paths import ROOT

DOCS = ROOT / ".github" / "docs"
PICTURES = DOCS / "pictures"


def files() -> dict[Path, str]:
    """Each made file with what it must say."""
    drawn = {path.with_suffix(".svg"): pictures.draw(path.read_text()) for path in sorted(PICTURES.glob("*.txt"))}
    return {DOCS / name: text for name, text in reference.all_of().items()} | drawn
