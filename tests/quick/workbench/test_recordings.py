"""A run in one file: what was saved comes back, and what somebody else has made of it is refused before it costs."""

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, Phase, StatusEvent, StreamEvent
from modal_app.contract.proof import Bundle, EventFacts
from modal_app.contract.requests import dump_request
from modal_app.model_gateway.recording import Exchange
from modal_app.runs.archive_writer import BUNDLE, EVENTS, REQUEST, TRAFFIC
from modal_app.runs.run_records import new_run_id
from workbench import ArchivedRun, Project, Recording, RecordingUnreadableError, make_request
from workbench.runs import recordings

RUN_ID = new_run_id()
PROJECT = Project.new()
EVENTS_OF_RUN = (
    StatusEvent(run_id=RUN_ID, seq=1, at_ms=1000, elapsed_ms=0, phase=Phase.ACCEPTED, message="accepted"),
    StatusEvent(run_id=RUN_ID, seq=2, at_ms=1005, elapsed_ms=5, phase=Phase.RUNNING, message="running"),
    StreamEvent(run_id=RUN_ID, seq=3, at_ms=1010, elapsed_ms=10, channel="claude", text="é hello"),
    DoneEvent(run_id=RUN_ID, seq=4, at_ms=1020, elapsed_ms=20),
)
STREAM = b"".join(map(sse.frame, EVENTS_OF_RUN))
BUNDLE_OF_RUN = Bundle(
    run_id=RUN_ID,
    user_id=PROJECT.user_id,
    project_id=PROJECT.project_id,
    action="claude",
    body_sha256="0",
    accepted_at_ms=1000,
    ended_at_ms=1020,
    outcome="done",
    closed_by="owner",
    events=EventFacts(last_seq=4, bytes=len(STREAM), sha256=hashlib.sha256(STREAM).hexdigest()),
)
ASKED = make_request(PROJECT, "claude", prompt="a page please", max_turns=3)
SAID = Exchange(
    path="/v1/messages",
    request={"model": "m", "messages": []},
    status=200,
    content_type="application/json",
    answer="{}",
    whole=True,
)
RECORDING = Recording(BUNDLE_OF_RUN, STREAM, ASKED, (SAID, SAID))
MEMBERS = {
    BUNDLE: BUNDLE_OF_RUN.model_dump_json().encode(),
    EVENTS: STREAM,
    REQUEST: dump_request(ASKED),
    TRAFFIC: f"{SAID.model_dump_json()}\n".encode() * 2,
}


def packed(members: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


def refused(path: Path, data: bytes, match: str) -> None:
    """Loading says what is wrong, and what to do, on one line."""
    path.write_bytes(data)
    with pytest.raises(RecordingUnreadableError, match=match) as caught:
        Recording.load(path)
    assert "workbench runs export" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    RECORDING.save(path)
    loaded = Recording.load(path)
    assert loaded == RECORDING
    assert loaded.events == EVENTS_OF_RUN
    assert loaded.run.text("claude") == "é hello"
    assert Recording.of(loaded.run) == RECORDING
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it holds what was said with the model"
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first, "the same recording is the same file"
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == list(MEMBERS)


def test_a_run_without_a_model_has_neither_request_nor_exchanges(tmp_path: Path) -> None:
    plain = Recording.of(ArchivedRun(RUN_ID, BUNDLE_OF_RUN, STREAM))
    plain.save(tmp_path / "run.zip")
    loaded = Recording.load(tmp_path / "run.zip")
    assert (loaded.request, loaded.exchanges) == (None, ())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zip"
    path.write_text("what was there")

    def full(*arguments: object, **how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        RECORDING.save(path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({EVENTS: STREAM}, f"{BUNDLE} is missing"),
        ({BUNDLE: MEMBERS[BUNDLE]}, f"{EVENTS} is missing"),
        (MEMBERS | {"../../evil": b""}, "'../../evil', which is no part of one"),
        (MEMBERS | {"\x1b[2J": b""}, "which is no part of one"),
        (MEMBERS | {BUNDLE: b"{}"}, f"{BUNDLE} is not what it must be: run_id"),
        (MEMBERS | {BUNDLE: b"[" * 100_000}, f"{BUNDLE} is not what it must be"),
        (MEMBERS | {EVENTS: STREAM[:-1]}, f"{EVENTS} is not what it must be"),
        (MEMBERS | {EVENTS: b""}, f"{EVENTS} is not what it must be"),
        (MEMBERS | {REQUEST: b'{"action": "claude"}'}, f"{REQUEST} is not what it must be"),
        (MEMBERS | {TRAFFIC: MEMBERS[TRAFFIC] + b"{}\n"}, "line 3 of the model's traffic: not an exchange: path"),
        (MEMBERS | {TRAFFIC: b"\xff\n"}, "line 1 of the model's traffic"),
    ],
    ids=range(11),
)
def test_what_is_not_whole_is_no_recording(members: dict[str, bytes], match: str, tmp_path: Path) -> None:
    refused(tmp_path / "run.zip", packed(members), match)


def test_a_changed_event_is_no_event_of_the_run(tmp_path: Path) -> None:
    refused(
        tmp_path / "run.zip", packed(MEMBERS | {EVENTS: STREAM.replace(b"hello", b"world")}), "not as in the bundle"
    )


@pytest.mark.parametrize("name", recordings.LIMITS)
def test_a_bomb_is_not_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recordings.LIMITS, name, 10_000)
    path = tmp_path / "run.zip"
    refused(path, packed(MEMBERS | {name: bytes(1_000_000)}), f"{name} has 1000000 bytes, 10000 are allowed")
    lying = packed(MEMBERS | {name: bytes(1_000_000)}).replace(struct.pack("<L", 1_000_000), struct.pack("<L", 9_000))
    refused(path, lying, "run.zip is no recording")
    monkeypatch.setitem(recordings.LIMITS, name, 1)
    with pytest.raises(RecordingUnreadableError, match=f"is too large for a recording: {name} has"):
        Recording.of(RECORDING.run)


def test_a_directory_of_millions_is_not_read(tmp_path: Path) -> None:
    many = packed({f"{number}": b"" for number in range(200)})
    refused(tmp_path / "run.zip", many, "more than the members of a recording")
    wide = packed(MEMBERS)
    wide = wide[:-22] + b"PK\x06\x07" + bytes(16) + wide[-22:]
    refused(tmp_path / "run.zip", wide, "more than the members of a recording")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_zip_file_is_told(tmp_path: Path) -> None:
    path, good = tmp_path / "run.zip", packed(MEMBERS)
    for data in (
        b"",
        b"PK",
        b"no zip file at all, and longer than its end",
        good[:-1],
        good + b"x",
        good[: len(good) // 2],
    ):
        refused(path, data, "it is no zip file")
    refused(path, good[:60] + b"!!!!" + good[64:], "run.zip is no recording")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as file:
        for name, content in [*MEMBERS.items(), (EVENTS, STREAM)]:
            file.writestr(name, content)
    refused(path, twice.getvalue(), "a member twice")
    packed_otherwise = io.BytesIO()
    with zipfile.ZipFile(packed_otherwise, "w", zipfile.ZIP_BZIP2) as file:
        for name, content in MEMBERS.items():
            file.writestr(name, content)
    refused(path, packed_otherwise.getvalue(), "packed in another way")
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "nothing.zip")


def test_an_archive_that_is_not_whole_cannot_be_recorded() -> None:
    broken = ArchivedRun(RUN_ID, BUNDLE_OF_RUN, STREAM[:-5])
    with pytest.raises(RecordingUnreadableError, match=re.escape(f"workbench runs verify {RUN_ID}")):
        Recording.of(broken)


def test_a_job_cannot_drive_the_terminal_that_shows_its_recording() -> None:
    hostile = json.loads(BUNDLE_OF_RUN.model_dump_json()) | {"outcome": "\x1b[2J" * 50}
    assert repr(Recording(Bundle(**hostile), STREAM)).isprintable()
