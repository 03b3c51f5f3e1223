"""What a pull raises: a CloudError whose message says what to do, and has no secret and no signed link in it."""

from workbench.local_cloud.base.errors import CloudError, Reason


class RegistryError(CloudError):
    """An image could not be pulled."""


class PassingError(RegistryError):
    """A failure that another attempt may not meet; `wait_s` is how long the registry has asked to wait, if it has."""

    def __init__(self, reason: Reason, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason, message)
        self.wait_s = wait_s


def printable(text: str, limit: int = 80) -> str:
    """Return what a registry says for a message: short, without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


def refused(message: str) -> RegistryError:
    """Build the error for an image or a name that cannot be used as it is."""
    return RegistryError(Reason.INVALID_ARGUMENT, message)


def damaged(message: str) -> RegistryError:
    """Build the error for content that is not what its digest, its size or its kind says."""
    return RegistryError(Reason.DATA_LOSS, message)
