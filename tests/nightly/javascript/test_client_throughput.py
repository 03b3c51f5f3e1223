"""The client's parser beside `eventsource-parser`, on the same text in the same process: never slower."""

import json
from pathlib import Path
from statistics import geometric_mean

from tests.standard.javascript.conftest import NODE
from tests.standard.javascript.test_client import built, node

pytestmark = NODE


def test_the_parser_is_as_fast_as_the_one_that_everybody_uses(scripts: Path) -> None:
    """Processor time, the best of many rounds of each; words, output, CR LF and a line of 10 MB."""
    figures = json.loads(node(built(scripts), "throughput.mjs"))
    assert geometric_mean(case["ratio"] for case in figures.values()) >= 1.0, figures
