"""A cloud on this machine that speaks Modal's own wire protocol, so that the unmodified SDK and CLI work against it.

This module lists every name that the rest of the workbench may use: the cloud's process, its state and its controls,
and the parts that `doctor`, the soaks and the benchmarks examine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError as IsolationUnavailableError
    from workbench.local_cloud.base.code_version import VERSION_HEADER as VERSION_HEADER
    from workbench.local_cloud.base.code_version import code_digest as code_digest
    from workbench.local_cloud.base.guest_directories import remove_tree as remove_tree
    from workbench.local_cloud.base.host_processes import family as family
    from workbench.local_cloud.base.host_processes import start_of as start_of
    from workbench.local_cloud.base.ports import listen as listen
    from workbench.local_cloud.base.quiet_server import QuietServer as QuietServer
    from workbench.local_cloud.base.system_root import system_python as system_python
    from workbench.local_cloud.faults.rules import FaultRule as FaultRule
    from workbench.local_cloud.faults.words import check_word as check_word
    from workbench.local_cloud.images.image_rpc import ONLY_LOOK as ONLY_LOOK
    from workbench.local_cloud.images.own_roots import why_none as why_none
    from workbench.local_cloud.process import daemon as daemon
    from workbench.local_cloud.process import maintenance as maintenance
    from workbench.local_cloud.process.daemon import CloudStartFailedError as CloudStartFailedError
    from workbench.local_cloud.process.private_mounts import take_private_mounts as take_private_mounts
    from workbench.local_cloud.process.private_mounts import why_without_overlay as why_without_overlay
    from workbench.local_cloud.process.state_directory import OWNER_VARIABLE as OWNER_VARIABLE
    from workbench.local_cloud.process.state_directory import STATE_VARIABLE as STATE_VARIABLE
    from workbench.local_cloud.process.state_directory import Running as Running
    from workbench.local_cloud.process.state_directory import State as State
    from workbench.local_cloud.process.state_directory import StateInUseError as StateInUseError
    from workbench.local_cloud.process.state_directory import StateUnusableError as StateUnusableError
    from workbench.local_cloud.process.state_directory import default_state_dir as default_state_dir
    from workbench.local_cloud.rootfs import kept_bases as kept_bases
    from workbench.local_cloud.rootfs.layers import Layers as Layers
    from workbench.local_cloud.rootfs.machine_base import has_pip as has_pip
    from workbench.local_cloud.sandboxes.engine import diagnosis as diagnosis
    from workbench.local_cloud.sandboxes.engine.diagnosis import MORE as MORE
    from workbench.local_cloud.sandboxes.engine.engine import Engine as Engine
    from workbench.local_cloud.sandboxes.engine.host_users import UIDS_VARIABLE as UIDS_VARIABLE
    from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid as isolation_uid
    from workbench.local_cloud.sandboxes.engine.host_users import uid_range as uid_range
    from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox as Sandbox
    from workbench.local_cloud.sandboxes.engine.spec import BindMount as BindMount
    from workbench.local_cloud.sandboxes.engine.spec import ExitStatus as ExitStatus
    from workbench.local_cloud.sandboxes.engine.spec import SandboxSpec as SandboxSpec
    from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError as SandboxStartFailedError
    from workbench.local_cloud.sandboxes.limits.cgroups import PREFIX as PREFIX
    from workbench.local_cloud.sandboxes.limits.cgroups import Cgroups as Cgroups
    from workbench.local_cloud.store.content import ContentStore as ContentStore
    from workbench.local_cloud.store.damage import StateError as StateError
    from workbench.local_cloud.store.database import Database as Database
    from workbench.local_cloud.store.names import Objects as Objects
    from workbench.local_cloud.volumes.committed import CommittedVolumes as CommittedVolumes
    from workbench.local_cloud.volumes.working_copies import WorkingCopies as WorkingCopies
    from workbench.local_cloud.volumes.working_copies import WorkingCopy as WorkingCopy
    from workbench.local_cloud.workspace.handshake import SDK_VERSION as SDK_VERSION

# Imported on first use, as in `workbench`: finding a running cloud must not wait for the import of all its parts.
_HOMES = {
    "BindMount": "sandboxes.engine.spec",
    "Cgroups": "sandboxes.limits.cgroups",
    "CloudStartFailedError": "process.daemon",
    "CommittedVolumes": "volumes.committed",
    "ContentStore": "store.content",
    "Database": "store.database",
    "Engine": "sandboxes.engine.engine",
    "ExitStatus": "sandboxes.engine.spec",
    "FaultRule": "faults.rules",
    "IsolationUnavailableError": "base.bubblewrap",
    "Layers": "rootfs.layers",
    "MORE": "sandboxes.engine.diagnosis",
    "ONLY_LOOK": "images.image_rpc",
    "OWNER_VARIABLE": "process.state_directory",
    "Objects": "store.names",
    "PREFIX": "sandboxes.limits.cgroups",
    "QuietServer": "base.quiet_server",
    "Running": "process.state_directory",
    "SDK_VERSION": "workspace.handshake",
    "STATE_VARIABLE": "process.state_directory",
    "Sandbox": "sandboxes.engine.running_sandbox",
    "SandboxSpec": "sandboxes.engine.spec",
    "SandboxStartFailedError": "sandboxes.engine.spec",
    "State": "process.state_directory",
    "StateError": "store.damage",
    "StateInUseError": "process.state_directory",
    "StateUnusableError": "process.state_directory",
    "UIDS_VARIABLE": "sandboxes.engine.host_users",
    "VERSION_HEADER": "base.code_version",
    "WorkingCopies": "volumes.working_copies",
    "WorkingCopy": "volumes.working_copies",
    "check_word": "faults.words",
    "code_digest": "base.code_version",
    "daemon": "process.daemon",
    "default_state_dir": "process.state_directory",
    "diagnosis": "sandboxes.engine.diagnosis",
    "family": "base.host_processes",
    "has_pip": "rootfs.machine_base",
    "isolation_uid": "sandboxes.engine.host_users",
    "kept_bases": "rootfs.kept_bases",
    "listen": "base.ports",
    "maintenance": "process.maintenance",
    "remove_tree": "base.guest_directories",
    "start_of": "base.host_processes",
    "system_python": "base.system_root",
    "take_private_mounts": "process.private_mounts",
    "why_none": "images.own_roots",
    "why_without_overlay": "process.private_mounts",
    "uid_range": "sandboxes.engine.host_users",
}


def __getattr__(name: str) -> object:
    """Import a name of `_HOMES`, or the module of that name, on first use; raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench.local_cloud' has no attribute '{name}'")
    home = import_module(f"workbench.local_cloud.{_HOMES[name]}")
    return home if home.__name__.endswith(f".{name}") else getattr(home, name)
