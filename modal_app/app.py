"""Modal wiring only: image, secret, volumes, functions. `modal deploy -m modal_app.app` takes it to any Modal.

At deploy time WORKBENCH_APP_NAME gives the name, WORKBENCH_TIMEOUT_* the deadlines (both travel into the container),
and WORKBENCH_MIN_CONTAINERS how many containers are kept warm.
"""

import os
from importlib.metadata import version

import modal

from modal_app import DEFAULT_APP_NAME
from modal_app.runs.state import ARCHIVE, SharedState
from modal_app.settings import Timeouts

APP_NAME = os.environ.get("WORKBENCH_APP_NAME", DEFAULT_APP_NAME)
PROJECTS = f"{APP_NAME}-projects"
SHARED = f"{APP_NAME}-global"
MAX_INPUTS = 60  # more than runs: probes and cancellations must get through

timeouts = Timeouts()
# What runs there is what was tested here.
_packages = [f"{name}=={version(name)}" for name in ("fastapi", "pydantic", "pydantic-settings", "structlog")]

_limits = {
    name: os.environ[name] for name in ("WORKBENCH_MAX_RUNS", "WORKBENCH_MAX_OUTPUT_BYTES") if name in os.environ
}

image = (
    modal.Image.debian_slim()
    .uv_pip_install(*_packages)
    .env({"WORKBENCH_APP_NAME": APP_NAME, **timeouts.env(), **_limits})
    .add_local_python_source("modal_app")
)
sandbox_image = modal.Image.debian_slim().apt_install("git")

projects = modal.Volume.from_name(PROJECTS, create_if_missing=True, version=2)
shared = modal.Volume.from_name(SHARED, create_if_missing=True, version=2)
state = SharedState.named(APP_NAME)

app = modal.App(APP_NAME)


@app.function(
    image=image,
    secrets=[modal.Secret.from_name(APP_NAME, required_keys=["WORKBENCH_SECRET"])],
    volumes={str(ARCHIVE): state.archive},
    timeout=timeouts.function_s,
    scaledown_window=300,
    min_containers=int(os.environ.get("WORKBENCH_MIN_CONTAINERS", "0")),
)
@modal.concurrent(max_inputs=MAX_INPUTS)
@modal.asgi_app()
def generate():  # type: ignore[no-untyped-def]  # what the SDK wants is an ASGI app of any kind
    """The endpoint. Refuses to start with bad settings."""
    from modal_app.fleet import Platform
    from modal_app.settings import Settings
    from modal_app.web import create_app

    return create_app(Settings(), Platform(app, sandbox_image, projects, shared), state)


@app.function(
    image=image,
    volumes={str(ARCHIVE): state.archive},
    timeout=timeouts.function_s,
    schedule=modal.Period(seconds=timeouts.sweep_s),
)
async def sweep() -> dict[str, int]:
    """End what nobody owns any more: sandboxes, runs, archives. Returns how much of each."""
    from modal_app.fleet import Platform
    from modal_app.runs.sweeper import Sweeper

    return await Sweeper(timeouts, Platform(app, sandbox_image, projects, shared), state).sweep()


@app.function(image=sandbox_image, include_source=False)
def sandbox_image_is_built() -> None:
    """Never called: it makes `modal deploy` build the sandboxes' image, so that no run waits for it."""
