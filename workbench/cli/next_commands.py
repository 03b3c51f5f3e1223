"""`workbench next`: the client for a Next.js application."""

from pathlib import Path
from typing import Annotated

import typer

from modal_app import DEFAULT_APP_NAME
from workbench.cli.common import AppNameOption, TargetOption, failing, say

app = typer.Typer(no_args_is_help=True, help="A client in TypeScript for a Next.js application.")


@app.callback()
def _group() -> None:
    """Keep the group's name although it has one command."""


@app.command()
def add(
    directory: Annotated[Path, typer.Argument(help="The application, where its package.json is.", metavar="DIR")],
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    diff: Annotated[
        bool, typer.Option("--diff", help="Change nothing; show what would change, and exit with 1 if anything would.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace files that were changed or deleted in the application.")
    ] = False,
    env: Annotated[
        bool, typer.Option(help="Write the endpoint's address and secret to .env.local, for the server.")
    ] = True,
) -> None:
    """Copy the client into an application, as files that its team owns, and write .env.local.

    The files go to lib/workbench: the client, the types of the contract, route handlers and a React hook. Run it again
    after an upgrade: what nobody has changed is replaced, what the team has changed stays and is named.
    """
    from workbench.session import connect
    from workbench.typescript import application, env_file

    with failing():
        if diff:
            changes = application.difference(directory, replace=replace)
            typer.echo(changes, nl=False)
            raise typer.Exit(1 if changes else 0)
        application.home_of_client(directory)
        endpoint = None
        if env:
            env_file.require_ignored(directory)
            with connect(target, app_name=app_name) as workbench:
                endpoint = workbench.endpoint
        done = application.add(directory, replace=replace)
        for name in done.written:
            typer.echo(f"wrote    {name}")
        for name in done.removed:
            typer.echo(f"removed  {name}")
        for name in done.kept:
            typer.echo(f"kept     {name}, which was changed here: --diff shows what is new, --replace takes it")
        if endpoint is not None and env_file.write(directory, endpoint):
            typer.echo(f"wrote    {env_file.NAME}")
        say("next: the route handlers, as .github/docs/nextjs.md tells")
