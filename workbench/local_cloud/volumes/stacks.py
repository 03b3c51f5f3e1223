"""What a stack of layers is: the directories that an overlay shows as one, and the place of a volume that they show."""

from dataclasses import dataclass

LAYERS = "laid-out"  # the directory of all layers, in the state directory of a cloud
TREE = "tree"  # the directory of a layer that has its files


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of a volume, and the owner that its files have in a mount (None: that of this process)."""

    volume_id: str
    sub_path: str
    owner_uid: int | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One directory of a stack: its number, and the commit whose state the stack shows up to this layer."""

    number: int
    head: int


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a place, bottom first, and how many entries and bytes of files they show together."""

    place: Place
    layers: tuple[Layer, ...]
    entries: int
    size: int

    @property
    def head(self) -> int:
        """The commit whose state it shows."""
        return self.layers[-1].head
