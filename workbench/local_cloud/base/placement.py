"""What the programs of every container are told about where they run, in environment variables as on Modal.

They are set over the variables of images and secrets, so that none of these can give a program another container's ids.
There is no identity token: nobody outside of this machine could check one.
"""

REGION = "local"
CLOUD_PROVIDER = "local"


def placement_env(task_id: str, image_id: str) -> dict[str, str]:
    """Return the variables that containers of functions and sandboxes both have; neither id is a secret."""
    return {
        "MODAL_TASK_ID": task_id,
        "MODAL_IMAGE_ID": image_id,
        "MODAL_REGION": REGION,
        "MODAL_CLOUD_PROVIDER": CLOUD_PROVIDER,
    }
