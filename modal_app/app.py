"""The Modal app, wiring only: images, secrets, volumes, functions. `modal deploy -m modal_app.app` deploys it.

These environment variables are read at deploy time. WORKBENCH_APP_NAME is the app's name, WORKBENCH_TIMEOUT_* are the
deadlines in seconds, WORKBENCH_MAX_RUNS, WORKBENCH_MAX_OUTPUT_BYTES and WORKBENCH_MEMORY_MB limits;
WORKBENCH_WITHOUT_CLAUDE leaves the Claude CLI out of sandboxes. All of these are also set in the containers.
WORKBENCH_MIN_CONTAINERS says how many containers of the endpoint are kept running.
"""

import os
from importlib.metadata import version

import modal

from modal_app import DEFAULT_APP_NAME
from modal_app.actions.claude_command import CLI_PACKAGE, CLI_VERSION
from modal_app.endpoint_settings import Limits, Scale, Timeouts
from modal_app.runs.shared_state import ARCHIVE, SharedState
from modal_app.sandboxes.project_sandbox import GLOBAL, WORKSPACE

APP_NAME = os.environ.get("WORKBENCH_APP_NAME", DEFAULT_APP_NAME)
PROJECTS = f"{APP_NAME}-projects"
SHARED = f"{APP_NAME}-global"
WITHOUT_CLAUDE = bool(os.environ.get("WORKBENCH_WITHOUT_CLAUDE"))
MAX_MODEL_INPUTS = 200  # at once in one container of the gateway, which only passes bytes on
limits = Limits()
MAX_INPUTS = limits.max_runs * 2 // 3  # below it, since a run needs no reader: new containers come before one is full

timeouts = Timeouts()
# Containers get the versions that are installed, and so were tested, here.
_installed = ("fastapi", "httpx", "pydantic", "pydantic-settings", "stamina", "structlog")
_packages = [f"{name}=={version(name)}" for name in _installed]

_without = {"WORKBENCH_WITHOUT_CLAUDE": "1"} if WITHOUT_CLAUDE else {}

image = (
    modal.Image.debian_slim()
    .uv_pip_install(*_packages)
    .env({"WORKBENCH_APP_NAME": APP_NAME, **timeouts.env(), **limits.env(), **_without})
    .add_local_python_source("modal_app")
)
sandbox_image = modal.Image.debian_slim().apt_install("git")
if not WITHOUT_CLAUDE:
    sandbox_image = sandbox_image.apt_install("nodejs", "npm").run_commands(
        f"npm install -g {CLI_PACKAGE}@{CLI_VERSION}"
    )

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
    min_containers=Scale().min_containers,
)
@modal.concurrent(max_inputs=MAX_INPUTS)
@modal.asgi_app()
def generate():  # type: ignore[no-untyped-def]  # what the SDK wants is an ASGI app of any kind
    """The web function `/generate`. A container with invalid settings refuses to start."""
    from modal_app import collector
    from modal_app.endpoint_settings import Settings
    from modal_app.model.access import ModelAccess
    from modal_app.sandboxes.fleet import Platform
    from modal_app.web import create_app

    settings = Settings()
    model = ModelAccess(None if WITHOUT_CLAUDE else settings.model_token_secret, model_gateway)
    platform = Platform(app, sandbox_image, projects, shared, settings.memory_mb)
    api = create_app(settings, platform, state, model)
    collector.settle()
    return api


@app.function(
    image=image,
    secrets=[modal.Secret.from_name(f"{APP_NAME}-model", required_keys=["WORKBENCH_MODEL_TOKEN_SECRET"])],
    timeout=timeouts.function_s,
    scaledown_window=300,
)
@modal.concurrent(max_inputs=MAX_MODEL_INPUTS)
@modal.asgi_app()
def model_gateway():  # type: ignore[no-untyped-def]  # as above
    """The model gateway, the only function that has the model's key. Refuses to start with invalid settings."""
    from modal_app import collector, logs
    from modal_app.model.traffic import Recorder, Replays, Traffic
    from modal_app.model_gateway.gateway import create_gateway
    from modal_app.model_gateway.gateway_settings import GatewaySettings
    from modal_app.runs.liveness import liveness

    logs.configure()
    traffic = Traffic(state.traffic)
    gateway = create_gateway(
        GatewaySettings(idle_s=timeouts.model_idle_s),
        is_live=liveness(state),
        record=Recorder(traffic),
        replay_of=Replays(traffic),
    )
    collector.settle()
    return gateway


@app.function(
    image=image,
    volumes={str(ARCHIVE): state.archive},
    timeout=timeouts.function_s,
    schedule=modal.Period(seconds=timeouts.sweep_s),
)
async def sweep() -> dict[str, int]:
    """End the sandboxes, runs and archives that nobody owns any more, on a schedule; returns how many of each."""
    from modal_app.runs.sweeper import Sweeper
    from modal_app.sandboxes.fleet import Platform

    return await Sweeper(timeouts, Platform(app, sandbox_image, projects, shared), state).sweep()


@app.function(image=sandbox_image, include_source=False, volumes={WORKSPACE: projects, GLOBAL: shared})
def sandboxes_are_prepared() -> None:
    """Never called. It makes `modal deploy` build the sandboxes' image and create their volumes."""
