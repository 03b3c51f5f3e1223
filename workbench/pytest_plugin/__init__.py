"""A pytest plugin with which any project tests its own Modal programs on a local cloud, without an account.

It is loaded by its entry point where this package is installed. Until a test uses one of its fixtures, it does nothing
but read its settings.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.pytest_plugin.endpoints import Endpoints as Endpoints
    from workbench.pytest_plugin.session_cloud import ModalCloud as ModalCloud

__all__ = ["Endpoints", "ModalCloud"]


def __getattr__(name: str) -> object:
    """Import a name on first use: every run of pytest imports this package, also where nothing of Modal is tested."""
    if name == "ModalCloud":
        from workbench.pytest_plugin.session_cloud import ModalCloud

        return ModalCloud
    if name == "Endpoints":
        from workbench.pytest_plugin.endpoints import Endpoints

        return Endpoints
    raise AttributeError(f"module 'workbench.pytest_plugin' has no attribute '{name}'")
