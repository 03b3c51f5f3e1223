"""Volumes of both versions: commits, reloads, files from outside, and their errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import modal
from parity_rows import fresh, raises, removed, row

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-volumes", image=image)
NAMES = {version: fresh(f"v{version}") for version in (1, 2)}
first = modal.Volume.from_name(NAMES[1], create_if_missing=True, version=1)
second = modal.Volume.from_name(NAMES[2], create_if_missing=True, version=2)
VOLUMES = {1: first, 2: second}
MOUNTS = {"/v1": first, "/v2": second}


@app.function(volumes=MOUNTS)
def write(version: int, name: str, text: str) -> None:
    with open(f"/v{version}/{name}", "w") as file:
        file.write(text)
    VOLUMES[version].commit()


@app.cls(volumes=MOUNTS)
class Reader:
    @modal.method()
    def read(self, version: int, name: str, *, reload: bool) -> str:
        if reload:
            VOLUMES[version].reload()
        try:
            with open(f"/v{version}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            return "(none)"

    @modal.method()
    def reload_with_an_open_file(self, version: int, name: str) -> str:
        VOLUMES[version].reload()
        with open(f"/v{version}/{name}"):
            return raises(VOLUMES[version].reload)


@app.function(volumes={"/data": second.read_only()})
def write_read_only() -> str:
    return raises(lambda: open("/data/file", "w"))


def each(look):
    """Look at both versions, the first one first."""
    return [look(version) for version in (1, 2)]


@contextmanager
def ephemeral(version: int) -> Iterator[modal.Volume]:
    with modal.Volume.ephemeral(version=version) as volume:
        yield volume


def put(volume, **files: bytes) -> None:
    import io

    with volume.batch_upload(force=True) as batch:
        for name, data in files.items():
            batch.put_file(io.BytesIO(data), f"/{name}")


@row("What a function commits is read from outside.", source="guide/volumes", expects=["kept", "kept"])
def commits_are_read_outside():
    def look(version):
        write.remote(version, "outside", "kept")
        return b"".join(VOLUMES[version].read_file("outside")).decode()

    return each(look)


@row(
    "A container sees another's commit after a reload, and not before.",
    source="guide/volumes",
    expects=[["(none)", "new"], ["(none)", "new"]],
)
def reloads_show_commits():
    def look(version):
        name = fresh("reload")
        reader = Reader()
        before = reader.read.remote(version, name, reload=True)
        write.remote(version, name, "new")
        return [before, reader.read.remote(version, name, reload=True)]

    return each(look)


@row(
    "A mounted volume does not change by itself when another container commits.",
    source="guide/volumes",
    expects=["old", "old"],
)
def mounts_do_not_change_by_themselves():
    def look(version):
        name = fresh("stays")
        write.remote(version, name, "old")
        reader = Reader()
        reader.read.remote(version, name, reload=True)
        write.remote(version, name, "new")
        return reader.read.remote(version, name, reload=False)

    return each(look)


@row("A reload with an open file is refused.", source="guide/volumes", expects=["RuntimeError", "RuntimeError"])
def reloads_with_open_files():
    def look(version):
        write.remote(version, "open", "x")
        return Reader().reload_with_an_open_file.remote(version, "open")

    return each(look)


@row(
    "Files are uploaded, listed, copied and removed from outside.",
    source="guide/volumes",
    expects=[[["a", "b"], ["a", "b", "c"], ["b", "c"]]] * 2,
)
def files_from_outside():
    def look(version):
        with ephemeral(version) as volume:
            put(volume, a=b"1", b=b"2")
            names = lambda: sorted(one.path for one in volume.listdir("/"))  # noqa: E731
            seen = [names()]
            volume.copy_files(["a"], "c")
            seen.append(names())
            volume.remove_file("a")
            return [*seen, names()]

    return each(look)


@row(
    "A file that is there is not uploaded again without `force`.",
    source="reference/modal.Volume",
    expects=["FileExistsError", "FileExistsError"],
)
def uploads_do_not_replace():
    import io

    def look(version):
        with ephemeral(version) as volume:
            put(volume, a=b"1")

            def again():
                with volume.batch_upload() as batch:
                    batch.put_file(io.BytesIO(b"2"), "/a")

            return raises(again)

    return each(look)


@row(
    "A missing file cannot be read or removed.",
    source="reference/modal.Volume",
    expects=[["FileNotFoundError", "FileNotFoundError"]] * 2,
)
def missing_files():
    def look(version):
        with ephemeral(version) as volume:
            return [raises(lambda: b"".join(volume.read_file("none"))), raises(lambda: volume.remove_file("none"))]

    return each(look)


@row("A missing directory cannot be listed.", source="reference/modal.Volume")
def missing_directories():
    def look(version):
        with ephemeral(version) as volume:
            return raises(lambda: volume.listdir("none"))

    return each(look)


@row(
    "Listing goes down into directories where it is asked to.",
    source="reference/modal.Volume",
    expects=[["d", "d/e", "d/e/f"]] * 2,
)
def recursive_listing():
    import io

    def look(version):
        with ephemeral(version) as volume:
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"1"), "/d/e/f")
            return sorted(one.path for one in volume.listdir("/", recursive=True))

    return each(look)


@row("A large file keeps its bytes.", source="guide/volumes", expects=[True, True], seconds=90)
def large_files():
    data = os.urandom(2**20) * 9

    def look(version):
        with ephemeral(version) as volume:
            put(volume, large=data)
            return b"".join(volume.read_file("large")) == data

    return each(look)


@row("A read-only mount cannot be written.", source="guide/volumes", expects="OSError")
def read_only_mounts():
    return write_read_only.remote()


@row(
    "A volume is renamed, and its old name is free.", source="reference/modal.Volume", expects=["kept", "NotFoundError"]
)
def renames():
    old, new = fresh("old"), fresh("new")
    volume = modal.Volume.from_name(old, create_if_missing=True, version=2).hydrate()
    put(volume, file=b"kept")
    with removed(lambda: modal.Volume.objects.delete(new, allow_missing=True)):
        modal.Volume.rename(old, new)
        text = b"".join(modal.Volume.from_name(new).read_file("file")).decode()
        return [text, raises(lambda: modal.Volume.from_name(old).hydrate())]


@row("A deleted volume is not found.", source="reference/modal.Volume", expects="NotFoundError")
def deletions():
    name = fresh("gone")
    modal.Volume.from_name(name, create_if_missing=True).hydrate()
    modal.Volume.objects.delete(name)
    return raises(lambda: modal.Volume.from_name(name).hydrate())
