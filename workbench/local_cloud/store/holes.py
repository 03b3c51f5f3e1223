"""Writes and copies files so that blocks of zeros take no disk: a guest's sparse file costs what it holds, no more."""

import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096  # the smallest unit in which file systems allocate
_ZEROS = bytes(_BLOCK_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_NO_COPY_FILE_RANGE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def has_hole(data: bytes) -> bool:
    """Whether a file of these bytes would have a hole: a whole block, counted from the first byte, of zeros."""
    return _ZEROS in data and any(
        data.startswith(_ZEROS, block) for block in range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES)
    )


def write_with_holes(file: BinaryIO, offset: int, chunk: bytes) -> None:
    """Write a chunk at `offset`, which must be the file's position; whole blocks of zeros become holes."""
    if _ZEROS not in chunk:
        file.write(chunk)
        return
    if chunk == _ZERO_CHUNK:
        file.seek(offset + len(chunk))
        return
    begin = 0  # of what is to be written next
    for block in range(-offset % _BLOCK_BYTES, len(chunk) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        if chunk.startswith(_ZEROS, block):
            file.write(memoryview(chunk)[begin:block])
            begin = block + _BLOCK_BYTES
            file.seek(offset + begin)
    file.write(memoryview(chunk)[begin:])


def copy_with_holes(source: int, target: int) -> None:
    """Copy an open file into an open, empty one; a file system that can share blocks does so. Raises OSError."""
    size = os.fstat(source).st_size
    for start, end in _data(source, size):
        _copy_range(source, target, start, end)
    os.ftruncate(target, size)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` at the descriptor's position. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that hold data rather than holes, as (start, end) in bytes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole is left
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy the bytes `start` to `end` of one file to the same place in another. Raises OSError."""
    os.lseek(target, start, os.SEEK_SET)
    try:
        while start < end and (copied := os.copy_file_range(source, target, end - start, offset_src=start)):
            start += copied
    except OSError as error:
        if error.errno not in _NO_COPY_FILE_RANGE:
            raise
    while start < end and (data := os.pread(source, min(CHUNK_BYTES, end - start), start)):
        write_all(target, data)
        start += len(data)
    if start < end:
        raise OSError(errno.EIO, f"{end - start} bytes of a content could not be read")
