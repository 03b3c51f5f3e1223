"""A project's committed files: a tree, and a preview of the file that is chosen."""

import threading
from pathlib import Path
from typing import Any, Literal, TypedDict

import anywidget
import traitlets

from workbench.volumes import PREVIEW_BYTES, ProjectVolume

_HERE = Path(__file__).parent


class Entry(TypedDict):
    """A row of the tree; `kind` as in VolumeEntry."""

    path: str
    kind: str
    size: int


class Preview(TypedDict):
    """To the page: the beginning of a file, or a note why there is none."""

    type: Literal["preview"]
    path: str
    text: str
    note: str


class VolumeBrowser(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget has no types
    """Shows what is committed. `refresh` looks again."""

    _esm = _HERE / "volume_browser.js"
    _css = _HERE / "volume_browser.css"

    title = traitlets.Unicode("").tag(sync=True)
    entries: traitlets.List[Entry] = traitlets.List().tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)

    def __init__(self, volume: ProjectVolume) -> None:
        super().__init__(title=f"{volume.user_id}/{volume.project_id}")
        self.volume = volume
        self.on_msg(self._on_message)
        self.refresh()

    def refresh(self) -> None:
        """Read the tree again."""
        try:
            found = self.volume.entries()
        except Exception as error:  # noqa: BLE001  # the boundary: the page shows that it failed, and the cell goes on
            self.problem = f"the volume cannot be read: {type(error).__name__}"
            return
        self.problem = ""
        self.entries = [Entry(path=entry.path, kind=entry.kind, size=entry.size) for entry in found]

    def preview(self, path: str) -> Preview:
        """The beginning of a file as text."""
        try:
            data = self.volume.read(path, limit=PREVIEW_BYTES + 1)
        except (ValueError, OSError) as error:
            return Preview(type="preview", path=path, text="", note=f"no preview: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001  # see refresh
            return Preview(type="preview", path=path, text="", note=f"it cannot be read: {type(error).__name__}")
        if b"\0" in data:
            return Preview(type="preview", path=path, text="", note="not text")
        note = f"the first {PREVIEW_BYTES} bytes" if len(data) > PREVIEW_BYTES else ""
        return Preview(type="preview", path=path, text=data[:PREVIEW_BYTES].decode(errors="replace"), note=note)

    def _on_message(self, _widget: object, content: object, _buffers: object) -> None:
        match content:
            case {"type": "refresh"}:
                threading.Thread(target=self.refresh, daemon=True).start()
            case {"type": "preview", "path": str(path)}:
                threading.Thread(target=lambda: self.send(self.preview(path)), daemon=True).start()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live browser, and for readers without a kernel the tree as a table."""
        live = super()._repr_mimebundle_(**options)
        bundle = live[0] if isinstance(live, tuple) else live or {}
        merged = {**bundle, **self.volume._repr_mimebundle_()}
        return (merged, live[1]) if isinstance(live, tuple) else merged
