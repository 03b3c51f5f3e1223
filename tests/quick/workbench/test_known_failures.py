"""What can be expected to fail at the command line is one sentence; nothing else is hidden."""

from pathlib import Path

import modal.exception
import pytest
import typer
from typer.testing import CliRunner

from workbench.cli import app
from workbench.cli.common import check_place, failing
from workbench.deployment.targets import TargetUnavailableError, resolve


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "x.zip"), "x.zip: Permission denied"),
        (NotADirectoryError(20, "Not a directory", "README.md/x"), "README.md/x: Not a directory"),
        (TimeoutError("too late"), "too late"),
        (modal.exception.AuthError("token abc"), "modal token new"),
        (modal.exception.ConnectionError("refused"), "ConnectionError"),
    ],
)
def test_a_failure_of_the_system_or_of_the_target_is_a_sentence(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, failing():
        raise error
    said = capsys.readouterr().err
    assert (ended.value.exit_code, told in said, "token abc" in said) == (1, True, False)


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), failing():
        raise ZeroDivisionError


@pytest.mark.parametrize("url", ["http://[::1", "https://", "ftp://a.example", "nowhere"])
def test_what_is_no_target_is_said_to_be_none(url: str) -> None:
    with pytest.raises(TargetUnavailableError, match="unknown target"):
        resolve(url)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    check_place(None)
    check_place(tmp_path / "new.xml")
    for wrong in (tmp_path, tmp_path / "none" / "new.xml"):
        with pytest.raises(typer.BadParameter, match="cannot be written"):
            check_place(wrong)


@pytest.mark.parametrize("path", ["./note.txt", "/note.txt", "../x", "a//b"])
@pytest.mark.parametrize("command", [["read"], ["blame"], ["history"], ["diff", "0", "--path"]], ids=" ".join)
def test_a_path_that_no_project_has_is_a_wrong_argument(command: list[str], path: str) -> None:
    """Before any target is asked."""
    done = CliRunner().invoke(app, ["volume", *command, path])
    assert (done.exit_code, "a path" in done.output) == (2, True), done.output


def test_ids_and_options_that_belong_together_are_checked_first() -> None:
    for wrong in (["tree", "--user", ".."], ["tree", "--project", "mine"], ["diff", "0", "--holder", "sb-1"]):
        assert CliRunner().invoke(app, ["volume", *wrong]).exit_code == 2


def test_no_match_is_the_same_for_people_and_for_programs() -> None:
    nothing = ["failures", "list", "xyzzyq"]
    assert CliRunner().invoke(app, nothing).exit_code == 1
    done = CliRunner().invoke(app, [*nothing, "--json"])
    assert (done.exit_code, done.stdout) == (1, "[]\n")
