"""`workbench cloud`: start, stop, inspect and clean up the local cloud's process and its state."""

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from workbench.cli import control_commands
from workbench.cli.common import JsonOption, failing, prepare, print_json, say
from workbench.local_cloud import Running, State, daemon, default_state_dir, kept_bases

app = typer.Typer(no_args_is_help=True, help="The local cloud: Modal's own protocol, served on this machine.")
app.add_typer(control_commands.fault, name="fault")
app.add_typer(control_commands.clock, name="clock")
app.command()(control_commands.coverage)
images = typer.Typer(no_args_is_help=True, help="The images that were built here, their layers and their sizes.")
app.add_typer(images, name="images")

_TELL_S = 2.0


def _state() -> State:
    return State(default_state_dir())


@app.command()
def start(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the local cloud unless it is running already."""
    with failing():
        prepare()
        say("starting the local cloud …")
        running, started = daemon.start(_state(), port=port)
        if as_json:
            print_json(_facts(running))
        else:
            typer.echo(f"{'started' if started else 'runs already'}: {running.url} (pid {running.pid})")
            typer.echo('To use it from this shell: eval "$(workbench cloud env)"')
            if not kept_bases.kept():
                typer.echo(
                    "The first sandbox or function waits some seconds: this machine's base system is copied, once."
                )


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show whether the local cloud is running. Exit code 3 when it is not."""
    state = _state()
    running = state.running()
    if as_json:
        print_json(_facts(running) if running is not None else {"running": False, "state_dir": str(state.root)})
    elif running is not None:
        typer.echo(f"running: {running.url} (pid {running.pid}), state in {state.root}, log in {state.log}")
    else:
        typer.echo(f"not running; its state is in {state.root}. Start it with `workbench cloud start`.")
    raise typer.Exit(0 if running is not None else 3)


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print shell exports that make any `modal` command or program use the local cloud.

    They contain its token, so use `eval "$(workbench cloud env)"`, which does not show them.
    """
    running = _state().running()
    if running is None:
        typer.echo("error: the local cloud does not run; start it with `workbench cloud start`", err=True)
        raise typer.Exit(3)
    if as_json:
        print_json(running.env())
        return
    for name, value in running.env().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def stop() -> None:
    """Stop the local cloud and everything that runs in it. Its state is kept."""
    say("stopping …")
    typer.echo("stopped" if daemon.stop(_state()) else "it was not running")


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False) -> None:
    """Stop the local cloud and remove its state: apps, secrets, volumes and their history."""
    state = _state()
    if not yes:
        typer.confirm(f"Remove everything in {state.root}?", abort=True)
    with failing():
        daemon.reset(state)
    typer.echo("the local cloud is empty")


@app.command()
def fsck(as_json: JsonOption = False) -> None:
    """Check the local cloud's stored state: every file's content by its hash, every volume against its history.

    The local cloud must not be running. Exit code 1 when something is damaged or missing.
    """
    from workbench.local_cloud import maintenance

    state = _state()
    with failing(), state.locked():
        report = maintenance.fsck(state.root, progress=_telling())
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            typer.echo(problem)
        typer.echo(
            f"{report.contents} contents ({report.size} bytes), {report.volumes} volumes, {report.commits} commits; "
            f"{report.unreferenced} are not used any more ({report.unreferenced_size} bytes): `workbench cloud gc`"
        )
        typer.echo(f"{len(report.problems)} problems" if report.problems else "nothing is damaged or missing")
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def gc(
    keep: Annotated[
        str | None,
        typer.Option(
            help="First drop the older history of volumes: how many commits to keep (100), or for how long (30d, 12h)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove stored contents that nothing refers to any more: no volume, commit, app or image.

    The local cloud must not be running. With --keep, older commits of every volume are dropped first; the present files
    are always kept.
    """
    from workbench.local_cloud import maintenance

    try:
        kept = maintenance.Keep.parse(keep) if keep is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--keep") from None
    state = _state()
    with failing(), state.locked():
        forgotten = maintenance.prune(state.root, kept, now=time.time()) if kept else 0
        removed, size = maintenance.gc(state.root)
    if as_json:
        print_json({"commits": forgotten, "removed": removed, "bytes": size})
        return
    if kept:
        typer.echo(f"forgot {forgotten} commits")
    typer.echo(f"removed {removed} contents and images, {size} bytes")


@images.command("list")
def list_images(as_json: JsonOption = False) -> None:
    """List the images that were built here, the newest first: what each stands on, its layers, its size and names.

    A size counts all layers of the image; other images may have some of them, too.
    """
    from workbench.local_cloud import maintenance

    with failing():
        found = maintenance.images(_state().root)
    if as_json:
        print_json([asdict(image) for image in found])
        return
    if not found:
        typer.echo("no image was built here yet")
        return
    typer.echo(f"{'image':<26}{'state':<9}{'built (UTC)':<18}{'layers':>6}{'MB':>8}  used  base, names")
    for image in found:
        built = time.strftime("%Y-%m-%d %H:%M", time.gmtime(image.finished_at)) if image.finished_at else ""
        typer.echo(
            f"{image.image_id:<26}{image.state:<9}{built:<18}{image.layers:>6}{image.size / 1e6:>8.1f}  "
            f"{'yes' if image.used else 'no':<4}  {', '.join((image.base, *image.names))}"
        )
    typer.echo(f"{len(found)} images; `workbench cloud images prune` removes those that nothing uses")


@images.command("ahead")
def images_ahead(
    program: Annotated[str, typer.Argument(help="A program for Modal, such as squares.py; with -m, a module.")],
    as_module: Annotated[bool, typer.Option("-m", help="The program is a module, such as package.app.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Build those that are not built yet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which images of a program are built here; those that only sandboxes use are not, when it is deployed.

    It loads the program as `modal deploy` does, and looks at the images at its module's level. Exit code 1 when one is
    not built, 3 when the local cloud does not run.
    """
    from workbench.deployment import images_ahead as ahead

    running = _state().running()
    if running is None:
        typer.echo("error: the local cloud does not run; start it with `workbench cloud start`", err=True)
        raise typer.Exit(3)
    env, words = {**os.environ, **running.env()}, [*(["-m"] if as_module else []), program]
    with failing():
        found = ahead.build(words, env, on_line=say) if build else ahead.look(words, env)
    if as_json:
        print_json([image.model_dump() for image in found])
    else:
        for image in found:
            typer.echo(f"{image.state:<10} {image.name}{f': {image.why}' if image.why else ''}")
        if any(image.state == "not built" for image in found):
            typer.echo("the first sandbox that uses one waits for it: `--build` builds them now")
    raise typer.Exit(0 if all(image.state == "built" for image in found) else 1)


@images.command("prune")
def prune_images(
    older: Annotated[
        str, typer.Option(help="Only images that were built longer ago than this: 12h, 30d; 0 for all.")
    ] = "7d",
    as_json: JsonOption = False,
) -> None:
    """Remove images that no name, app, deployment or other image uses, and the layers that no image has any more.

    The local cloud must not be running. An image that is removed is built anew when it is asked for.
    """
    from workbench.local_cloud import maintenance

    try:
        age_s = 0.0 if older.strip() == "0" else maintenance.Keep.parse(older).age_s
        if older.strip() != "0" and not age_s:
            raise ValueError(f"'{older[:50]}' is not a time, such as 12h or 30d, or 0")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--older") from None
    state = _state()
    with failing(), state.locked():
        pruned = maintenance.prune_images(state.root, before=time.time() - age_s)
    if as_json:
        print_json(asdict(pruned))
    else:
        typer.echo(
            f"removed {pruned.images} images; with them {pruned.removed} layers, directories and downloads, "
            f"{pruned.size} bytes"
        )


def _facts(running: Running) -> dict[str, object]:
    return {"running": True, "url": running.url, "pid": running.pid, "state_dir": str(_state().root)}


def _telling() -> "Callable[[int, int], None]":
    """Make a callback (done, total) that prints the progress every few seconds: a large state takes minutes."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _TELL_S:
            last = time.monotonic()
            say(f"{done} of {total} contents …")

    return tell
