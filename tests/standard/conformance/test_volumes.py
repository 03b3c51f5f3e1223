"""Volumes through the stock SDK and CLI."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running

BLOCK = 8 * 1024 * 1024


@pytest.fixture(params=[1, 2])
def volume(cloud: Running, request: pytest.FixtureRequest) -> Iterator[modal.Volume]:
    with modal.Volume.ephemeral(version=request.param) as volume:
        yield volume


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_files_of_any_size_come_back_as_they_were(volume: modal.Volume, size: int) -> None:
    data = os.urandom(size // 2).ljust(size, b"\0")  # trailing zeros travel by omission
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(data), "/a/b.bin")
    assert b"".join(volume.read_file("a/b.bin")) == data


def test_upload_refuses_to_overwrite_unless_forced(volume: modal.Volume) -> None:
    for force in (False, True):
        with volume.batch_upload(force=force) as batch:
            batch.put_file(io.BytesIO(b"1"), "/f")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"2"), "/f")
    assert b"".join(volume.read_file("f")) == b"1"


def test_listing_removing_and_copying(volume: modal.Volume) -> None:
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/d/one")
        batch.put_file(io.BytesIO(b"22"), "/d/e/two")
    assert [(e.path, e.size) for e in volume.listdir("d")] == [("d/e", 0), ("d/one", 1)]
    assert [e.path for e in volume.listdir("/", recursive=True)] == ["d", "d/e", "d/e/two", "d/one"]
    volume.copy_files(["d/one"], "d/e")
    assert b"".join(volume.read_file("d/e/one")) == b"1"
    volume.remove_file("d/one")
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("d/one"))
    with pytest.raises(modal.exception.InvalidError):
        volume.remove_file("d/e")
    volume.remove_file("d/e", recursive=True)
    assert volume.listdir("d") == []


@pytest.mark.parametrize("source", ["/", "d"])
def test_a_directory_is_not_copied_into_itself(cloud: Running, source: str) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "/d/e/one")
        with pytest.raises(modal.exception.InvalidError, match="into itself"):
            volume.copy_files([source], "d/e", recursive=True)
        assert [e.path for e in volume.listdir("/", recursive=True)] == ["d", "d/e", "d/e/one"]


@pytest.mark.parametrize("path", ["../up", "a/../../b", "x" * 300, "a\0b"])
def test_paths_that_lead_elsewhere_are_refused(volume: modal.Volume, path: str) -> None:
    with pytest.raises(modal.exception.InvalidError):
        volume.listdir(path)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,3}(/[a-z]{1,3}){0,2}\.txt\Z"), st.binary(max_size=2000), max_size=6))
def test_what_is_put_is_what_is_read(cloud: Running, files: dict[str, bytes]) -> None:
    with modal.Volume.ephemeral(version=2) as volume:
        with volume.batch_upload() as batch:
            for path, data in files.items():
                batch.put_file(io.BytesIO(data), path)
        found = {e.path: b"".join(volume.read_file(e.path)) for e in volume.iterdir("/") if e.type.name == "FILE"}
    assert found == files


def test_the_stock_commands_move_files(modal_cli: Cli, tmp_path: Path) -> None:
    modal_cli("volume", "create", "cli-vol", "--version", "2")
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f.txt").write_text("hello")
    modal_cli("volume", "put", "cli-vol", str(source), "/up")
    assert "up/sub" in modal_cli("volume", "ls", "cli-vol", "up")
    modal_cli("volume", "get", "cli-vol", "up/sub/f.txt", str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "hello"
    modal_cli("volume", "cp", "cli-vol", "up/sub/f.txt", "up/copy.txt")
    modal_cli("volume", "rm", "cli-vol", "up/sub", "-r")
    listing = modal_cli("volume", "ls", "cli-vol", "up")
    assert "copy.txt" in listing
    assert "sub" not in listing
    modal_cli("volume", "rename", "cli-vol", "cli-vol-2", "--yes")
    assert "cli-vol-2" in modal_cli("volume", "list")
    modal_cli("volume", "delete", "cli-vol-2", "--yes")
    assert "cli-vol-2" not in modal_cli("volume", "list")
