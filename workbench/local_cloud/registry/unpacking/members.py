"""Reads an archive's members one after another, with tarfile; a broken header is an error wherever it stands."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from workbench.local_cloud.registry.unpacking.archive import Archive
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, printable

_GLOBAL_HEADERS = 1000  # fields; tarfile keeps them for all that follows
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def read_members(archive: Archive) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield every member, with the file that its content is read from before the next one is asked for.

    Raises LayerRefusedError.
    """
    with sense_made(), archive.header():
        tar = tarfile.open(  # noqa: SIM115 - it owns nothing
            fileobj=cast("IO[bytes]", archive),
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_kind_of_member(archive),
        )
    while True:
        with sense_made(), archive.header():
            member = tar.next()
        if member is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # undocumented; it would keep them all
        if len(tar.pax_headers) > _GLOBAL_HEADERS:
            raise LayerRefusedError("The layer's global headers are too many.")
        yield tar, member


@contextmanager
def sense_made() -> Iterator[None]:
    """Turn what tarfile raises of headers that nobody writes into LayerRefusedError."""
    try:
        yield
    except (ValueError, ArithmeticError, LookupError, RecursionError, AttributeError, TypeError) as error:
        raise LayerRefusedError("The layer is damaged: a member's header makes no sense.") from error


def _kind_of_member(archive: Archive) -> type[tarfile.TarInfo]:
    class Member(tarfile.TarInfo):
        """A header as it is read. Of a broken one, tarfile itself makes the archive's end."""

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Member":
            try:
                member = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if not buf or (len(buf) == tarfile.BLOCKSIZE and not any(buf)):
                    raise  # the end, with or without its block of zeros
                raise LayerRefusedError(f"The layer is damaged: {printable(str(error))}.") from error
            if member.size < 0:
                raise LayerRefusedError("The layer is damaged: a member's size is negative.")
            if member.type in _PAX:
                archive.pax_bytes = member.size
            return member

    return Member
