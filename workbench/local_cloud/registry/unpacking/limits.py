"""What one layer may be at most, each with its reason. An ordinary layer is far from all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """In bytes, unless the name says otherwise."""

    archive: int = 32 << 30  # uncompressed, the headers included; of all files together, the holes included
    ratio: int = 250  # of uncompressed to compressed; ordinary layers reach 10
    ratio_from: int = 256 << 20  # uncompressed, below which the ratio does not matter: files of zeros exist
    entries: int = 1_000_000  # members, and the directories that they imply
    name: int = 4096  # of a whole name, as the kernel has it
    component: int = 255  # of a name, as file systems have it
    depth: int = 128  # components of a name
    header: int = 512 * 1024  # of one member, with its long names and attributes: tarfile reads them at once
    directories: int = 64 << 20  # of the names of all directories together, which are kept until the end
