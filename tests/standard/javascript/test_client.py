"""The client in TypeScript: its parser, its resuming, its size, its route handlers, and the real endpoint."""

import gzip
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.standard.javascript.conftest import NODE, SCRIPT_S
from tests.standard.javascript.test_contract_types import _npx
from workbench import Workbench
from workbench.typescript import application

pytestmark = NODE
MAX_CLIENT_BYTES = 6_000  # minified and compressed, as a page loads it
STREAMS = 300
MODULES = ("sse.ts", "client.ts", "routes.ts", "run-store.ts", "conversation.ts", "ai-sdk.ts")


def built(scripts: Path) -> Path:
    """The directory of the scripts, with the client's modules as Node.js reads them in `built`."""
    root = scripts / "client"
    if not root.exists():
        root.mkdir()
        (root / "package.json").write_text("{}")
        application.add(root)
        sources = [str(application.home_of_client(root) / name) for name in MODULES]
        into = ("--format=esm", "--target=es2022", "--out-extension:.js=.mjs", f"--outdir={scripts / 'built'}")
        _npx(scripts, "esbuild", *sources, "--bundle", "--splitting", *into, "--log-level=warning")
    return scripts


def node(directory: Path, *arguments: str, env: Mapping[str, str] | None = None, binary: str = "node") -> str:
    """Run a script to its end by a Node.js; returns what it printed."""
    variables = {**os.environ, "NO_COLOR": "1", **(env or {})}
    done = subprocess.run(
        [binary, *arguments],
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        timeout=SCRIPT_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_is_read_alike_wherever_it_is_cut(scripts: Path, seed: int) -> None:
    """As `eventsource-parser` and the specification read it whole: at every byte, and in every three pieces."""
    told = json.loads(node(built(scripts), "parser.mjs", str(seed), str(STREAMS)))
    assert told["streams"] > STREAMS
    assert told["splits"] > 10 * STREAMS


def test_nothing_is_lost_and_nothing_comes_twice(scripts: Path) -> None:
    node(built(scripts), "--test-reporter=spec", "client.mjs")


def test_the_endpoint_is_called(scripts: Path, wb: Workbench) -> None:
    called = {"WORKBENCH_URL": wb.endpoint.url, "WORKBENCH_SECRET": wb.endpoint.secret.get_secret_value()}
    node(built(scripts), "--test-reporter=spec", "client_endpoint.mjs", env=called)


def test_the_route_handlers_keep_to_themselves_what_is_no_browsers_business(scripts: Path) -> None:
    node(built(scripts), "--test-reporter=spec", "routes.mjs")


def test_a_browser_reaches_the_endpoint_through_the_route_handlers(scripts: Path, wb: Workbench) -> None:
    called = {"WORKBENCH_URL": wb.endpoint.url, "WORKBENCH_SECRET": wb.endpoint.secret.get_secret_value()}
    node(built(scripts), "--test-reporter=spec", "routes_endpoint.mjs", env=called)


def test_a_page_that_is_loaded_again_shows_its_run(scripts: Path) -> None:
    node(built(scripts), "--test-reporter=spec", "run_store.mjs")


def test_an_edge_runtime_needs_nothing_of_node(scripts: Path) -> None:
    """Neither the client nor the route handlers."""
    home = application.home_of_client(built(scripts) / "client")
    (home / "edge.ts").write_text('export * as client from "./client";\nexport * as routes from "./routes";\n')
    form = ("--bundle", "--format=iife", "--global-name=workbench", "--target=es2022", "--platform=browser")
    _npx(scripts, "esbuild", str(home / "edge.ts"), *form, f"--outfile={scripts / 'edge.js'}", "--log-level=warning")
    node(scripts, "--test-reporter=spec", "edge.mjs")


def test_the_client_is_small(scripts: Path) -> None:
    """With everything that a page needs to start, to follow and to cancel runs."""
    source = application.home_of_client(built(scripts) / "client") / "client.ts"
    small = scripts / "client.min.js"
    _npx(scripts, "esbuild", str(source), "--bundle", "--minify", "--format=esm", f"--outfile={small}")
    assert len(gzip.compress(small.read_bytes(), 9)) <= MAX_CLIENT_BYTES
