"""`workbench deploy` deploys the endpoint; `workbench endpoint` shows how to call it."""

from typing import TYPE_CHECKING, Annotated

import typer

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.headers import SECRET_HEADER
from workbench.cli.common import (
    AppNameOption,
    JsonOption,
    TargetOption,
    failing,
    prepare,
    print_json,
    say,
)

if TYPE_CHECKING:
    from workbench.session import Workbench


def deploy(
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    rotate_secret: Annotated[
        bool, typer.Option(help="Make a new secret; the one before stays accepted until the next rotation.")
    ] = False,
    build_images: Annotated[
        bool, typer.Option("--build-images", help="Also build what only sandboxes use, so that none of them waits.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the endpoint to a target, with the stock `modal` command.

    Images of the program that are not built yet are named; `workbench cloud images ahead` does so for any program.
    """
    from workbench.session import connect

    with failing():
        if target == "local":
            prepare()
        say(f"deploying to {target} …")
        with connect(target, app_name=app_name) as workbench:
            if (why_not := workbench.why_without_claude) is not None:
                say(f"without the Claude CLI: {why_not}")
            endpoint = workbench.deploy(rotate_secret=rotate_secret, on_line=say)
            if build_images or target == "local":
                _tell_images(workbench, build=build_images)
        if as_json:
            print_json({"url": endpoint.url})
        else:
            typer.echo(endpoint.url)


def _tell_images(workbench: "Workbench", *, build: bool) -> None:
    """Say which images are not built; what is deployed is deployed, whatever comes of this."""
    from workbench.deployment.images_ahead import ProgramUnreadableError

    try:
        for image in workbench.images(build=build, on_line=say):
            if image.state != "built":
                why = f": {image.why}" if image.why else ", the first sandbox that uses it waits: --build-images"
                say(f"the image {image.name} is {image.state.replace('failed', 'not built')}{why}")
    except ProgramUnreadableError as error:
        say(str(error))


def endpoint(
    target: TargetOption = "local", app_name: AppNameOption = DEFAULT_APP_NAME, as_json: JsonOption = False
) -> None:
    """Show how to call the deployed endpoint: its URL and, with --json, its secret."""
    from workbench.session import connect

    with failing():
        with connect(target, app_name=app_name) as workbench:
            found = workbench.endpoint
        if as_json:
            print_json({"url": found.url, "secret": found.secret.get_secret_value()})
        else:
            typer.echo(found.url)
            typer.echo(f"The secret is printed with --json; send it as the header {SECRET_HEADER}.", err=True)
