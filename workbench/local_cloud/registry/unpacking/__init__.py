"""Unpacks one layer's archive into an empty directory, as a layer of an overlay mounted with `userxattr`.

Runs in a child process that is root of a user namespace, best chrooted into that directory; the archive is hostile.
Every name is opened component by component, by descriptors and without following a link, so that the rules hold without
the chroot, too. Needs nothing but the standard library, and zstandard for layers that are compressed with it.

Who starts the child imports this package *before* the chroot, gives it a directory of the namespace's root, bounds its
memory, and ends it at a deadline. Nothing is synchronised to the disk here: the owner of the directory does that before
it counts on the layer.
"""

from workbench.local_cloud.registry.unpacking.child import Unpacked as Unpacked
from workbench.local_cloud.registry.unpacking.child import read_report as read_report
from workbench.local_cloud.registry.unpacking.child import unpack as unpack
from workbench.local_cloud.registry.unpacking.child import unpack_in_child as unpack_in_child
from workbench.local_cloud.registry.unpacking.limits import Limits as Limits
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError as LayerRefusedError
from workbench.local_cloud.registry.unpacking.refusals import UnpackFailedError as UnpackFailedError
