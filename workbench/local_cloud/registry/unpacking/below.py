"""The merged layers below the one that is unpacked: what a directory is like there, and where a link leads."""

import os
import stat

from workbench.local_cloud.registry.unpacking.attributes import Attributes
from workbench.local_cloud.registry.unpacking.names import Parts, look, open_directory


class Below:
    """A view of the layers below by the descriptor of its root, None for none. Its content is a guest's."""

    def __init__(self, root: int | None) -> None:
        self._root = root

    def attributes(self, place: Parts) -> Attributes | None:
        """Return what a directory has there, None where no directory is."""
        descriptor = self._opened(place)
        if descriptor is None:
            return None
        try:
            return Attributes.of_directory(descriptor)
        finally:
            os.close(descriptor)

    def link(self, place: Parts) -> bytes | None:
        """Return a link's target, None where there is no link."""
        descriptor = self._opened(place[:-1])
        if descriptor is None:
            return None
        try:
            found = look(place[-1], descriptor)
            is_link = found is not None and stat.S_ISLNK(found.st_mode)
            return os.readlink(place[-1], dir_fd=descriptor) if is_link else None
        finally:
            os.close(descriptor)

    def _opened(self, place: Parts) -> int | None:
        if self._root is None:
            return None
        try:
            return open_directory(self._root, place)
        except (FileNotFoundError, NotADirectoryError):
            return None
