"""A recording: one ended run in one zip file, to be shown, checked and replayed anywhere.

Its members are `run.json` and `events.sse`, as in the run's archive. For a job of the Claude CLI there are also
`request.json`, the request to the endpoint, and `model.jsonl`, the exchanges with the model. The file is untrusted:
sizes are checked before anything is read, contents are parsed by the contract's own parsers, and an incomplete
recording is refused.
"""

import secrets
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from modal_app.contract.errors import ContractError
from modal_app.contract.events import Event
from modal_app.contract.proof import Bundle, verify
from modal_app.contract.requests import Request, dump_request, parse_request
from modal_app.model_gateway.recording import Exchange, dump_exchanges, parse_exchanges
from modal_app.runs.archive_writer import BUNDLE, EVENTS, REQUEST, TRAFFIC
from workbench.errors import WorkbenchError
from workbench.runs.archived_run import ArchivedRun
from workbench.text.plain_text import one_line

LIMITS = {
    BUNDLE: 256 * 1024,  # a real one has two thousand
    EVENTS: 128 * 1024 * 1024,  # in memory, twice: as bytes and as events
    REQUEST: 8 * 1024 * 1024,  # a prompt has at most 1 MiB, more with JSON's escapes
    TRAFFIC: 128 * 1024 * 1024,  # four times what a run's archive holds at most
}
_REQUIRED = {BUNDLE, EVENTS}
_PROVED = ("sequence", "bytes", "one_end")  # checks that must hold: without them, the events may not be the run's
_MAX_DIRECTORY_BYTES = 4096  # of the zip: its four entries take three hundred
_END = struct.Struct("<4s4H2LH")  # end of central directory record, PKWARE APPNOTE 4.3.16
_END_SIGNATURE = b"PK\x05\x06"
_WIDE_SIGNATURE = b"PK\x06\x07"  # 4.3.15: its directory may be of any size
_WIDE_BYTES = 20
_MADE = (1980, 1, 1, 0, 0, 0)  # the date of every member, so that the same recording has the same bytes
_EXPORT = "export it again with `workbench runs export RUN_ID FILE`"


class RecordingUnreadableError(WorkbenchError):
    """The file is not a recording, or an incomplete one; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Recording:
    """One ended run: its proof, and in `stream` its events as the bytes that readers got.

    `request` and `exchanges` (with the model) are present for a job of the Claude CLI.
    """

    bundle: Bundle
    stream: bytes
    request: Request | None = None
    exchanges: tuple[Exchange, ...] = ()

    @classmethod
    def of(cls, run: ArchivedRun) -> "Recording":
        """Make the recording of an archived run; raises RecordingUnreadableError when its archive is incomplete."""
        members = {BUNDLE: _json(run.bundle), EVENTS: run.stream, REQUEST: run.request, TRAFFIC: run.traffic}
        found = {name: data for name, data in members.items() if data or name in _REQUIRED}
        for name, data in found.items():
            if len(data) > LIMITS[name]:
                raise RecordingUnreadableError(
                    f"run {run.run_id} is too large for a recording: {name} has {len(data)} bytes, {LIMITS[name]} fit"
                )
        try:
            return _parsed(found)
        except ValueError as error:
            message = f"run {run.run_id} cannot be recorded: {error}: `workbench runs verify {run.run_id}` tells more"
            raise RecordingUnreadableError(message) from None

    @classmethod
    def load(cls, path: Path | str) -> "Recording":
        """Read a recording from a file. Raises RecordingUnreadableError, and OSError when the file cannot be read."""
        name = one_line(Path(path).name, 80)
        try:
            with Path(path).open("rb") as file:
                return _parsed(_members(file))
        except (ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise RecordingUnreadableError(f"{name} is no recording: {one_line(str(error))}: {_EXPORT}") from None

    def save(self, path: Path | str) -> None:
        """Write the recording to a file that only its owner can read, whole or not at all. Raises OSError."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            temporary.touch(mode=0o600, exist_ok=False)
            with zipfile.ZipFile(temporary, "w") as file:
                for name, data in self._members().items():
                    entry = zipfile.ZipInfo(name, _MADE)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    file.writestr(entry, data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.bundle.run_id

    @cached_property
    def run(self) -> ArchivedRun:
        """The run as if read from its archive: events, timeline, checks."""
        members = self._members()
        return ArchivedRun(
            self.run_id, self.bundle, self.stream, request=members.get(REQUEST, b""), traffic=members.get(TRAFFIC, b"")
        )

    @property
    def events(self) -> tuple[Event, ...]:
        """The run's events, from the first to the terminal one."""
        return self.run.events

    def _members(self) -> dict[str, bytes]:
        members = {BUNDLE: _json(self.bundle), EVENTS: self.stream}
        if self.request is not None:
            members[REQUEST] = dump_request(self.request)
        if self.exchanges:
            members[TRAFFIC] = dump_exchanges(self.exchanges)
        return members

    def __repr__(self) -> str:
        return f"Recording({self.run_id}, {one_line(self.bundle.outcome, 40)}, {len(self.exchanges)} model exchanges)"


def _json(bundle: Bundle) -> bytes:
    return bundle.model_dump_json(indent=1, exclude_none=True).encode()


def _members(file: BinaryIO) -> dict[str, bytes]:
    """The bytes of each member, by name. Raises ValueError and the exceptions of `zipfile`."""
    _check_directory(file)
    with zipfile.ZipFile(file) as opened:
        entries = opened.infolist()
        names = [entry.filename for entry in entries]
        if unknown := sorted(set(names) - set(LIMITS)):
            raise ValueError(f"it holds {one_line(unknown[0], 40)!r}, which is no part of one")
        if len(set(names)) != len(names):
            raise ValueError("it holds a member twice")
        if missing := sorted(_REQUIRED - set(names)):
            raise ValueError(f"{missing[0]} is missing")
        for entry in entries:
            if entry.file_size > LIMITS[entry.filename]:
                raise ValueError(f"{entry.filename} has {entry.file_size} bytes, {LIMITS[entry.filename]} are allowed")
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{entry.filename} is encrypted, or packed in another way")
        try:
            # `zipfile` unpacks no more bytes than the member's entry declares, and those were checked above.
            return {entry.filename: opened.read(entry) for entry in entries}
        except (zlib.error, OSError) as error:
            raise ValueError(f"it is damaged: {error}") from None


def _check_directory(file: BinaryIO) -> None:
    """Check that the zip's directory is small before `zipfile` reads it. Raises ValueError."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _WIDE_BYTES))
    tail = file.read(_END.size + _WIDE_BYTES)
    if len(tail) < _END.size:
        raise ValueError("it is no zip file")
    signature, _, _, _, _, directory_bytes, _, comment_bytes = _END.unpack(tail[-_END.size :])
    if signature != _END_SIGNATURE or comment_bytes:
        raise ValueError("it is no zip file, or one that something was appended to")
    if directory_bytes > _MAX_DIRECTORY_BYTES or tail.startswith(_WIDE_SIGNATURE):
        raise ValueError("it holds more than the members of a recording")
    file.seek(0)


def _parsed(members: dict[str, bytes]) -> Recording:
    """Parse the members into a recording. Raises ValueError."""
    try:
        bundle = Bundle.model_validate_json(members[BUNDLE])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{BUNDLE} is not what it must be: {where}: {first['msg']}") from None
    try:
        request = parse_request(members[REQUEST]) if REQUEST in members else None
    except ContractError as error:
        raise ValueError(f"{REQUEST} is not what it must be: {error.message}") from None
    exchanges = parse_exchanges(members.get(TRAFFIC, b""))
    checks = {check.name: check for check in verify(bundle, members[EVENTS])}
    for name in _PROVED:
        if not checks[name].ok:
            raise ValueError(f"{EVENTS} is not what it must be: {checks[name].detail}")
    return Recording(bundle, members[EVENTS], request, exchanges)
