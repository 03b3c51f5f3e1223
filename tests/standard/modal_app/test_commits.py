"""Commits that cannot be whole: which of the job's files, why, and what is committed all the same."""

import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent
from workbench import Project, Workbench

GOOD = "open('good', 'w').write('1')\n"
# What a job writes, and what is said of it.
BLAMED = {
    "a name that is not UTF-8": ("open(b'tea\\xe9', 'w')", r"tea\xe9 (its name is not UTF-8)"),
    "a directory's name": ("import os; os.makedirs(b'd/\\xff/e')", r"d/\xff (its name is not UTF-8)"),
    "a link to such a name": ("import os; os.symlink(b'tea\\xe9', 'link')", "link (the link's target is not UTF-8)"),
    "a file that is too deep": (
        "import os; os.makedirs('/'.join(['d'] * 100)); open('/'.join(['d'] * 100) + '/f', 'w')",
        "d/f (it lies more than 100 directories deep",
    ),
    "a directory that is too deep": ("import os; os.makedirs('/'.join(['d'] * 130))", "it lies more than 100"),
    "a path that is too long": (
        "import os\nfor _ in range(20): os.mkdir('n' * 250); os.chdir('n' * 250)",
        "(it lies more than 100 directories deep, or its path has more than 4096 bytes)",
    ),
    "a name that would break a line": ("open(b'a\\n\\x1b[31m\\xff', 'w')", r"a\n\x1b[31m\xff (its name is not UTF-8)"),
}


@pytest.mark.parametrize("name", BLAMED)
def test_the_job_s_own_files_are_named_with_the_reason(wb: Workbench, project: Project, name: str) -> None:
    code, said = BLAMED[name]
    run = wb.launch(project, "python", code=GOOD + code)
    end = run.wait(60)
    assert isinstance(end, ErrorEvent), end
    assert (end.code, end.recoverable, end.exit_code) == ("commit_failed", False, 0)
    assert end.message.startswith("1 of the job's own files cannot be committed: ")
    assert said in end.message
    assert "of the other files 1 of 1 that were looked at are committed" in end.message
    assert end.commit is not None
    assert (end.commit.committed, end.commit.compared) == (False, 1)
    assert wb.volume(project).read("good") == b"1"
    assert all(check.ok for check in wb.runs.verify(run.run_id, wait_s=30))


def test_of_many_the_first_are_named(wb: Workbench, project: Project) -> None:
    end = wb.launch(project, "python", code="[open(b'%d\\xff' % n, 'w') for n in range(300)]").wait(60)
    assert isinstance(end, ErrorEvent)
    assert end.message.startswith("300 of the job's own files cannot be committed: 0\\xff (its name is not UTF-8), ")
    assert end.message.endswith(" and 295 more")
    assert end.commit is not None
    assert end.commit.compared == 0


def test_a_commit_that_the_platform_refuses_may_be_tried_again(wb: Workbench, project: Project) -> None:
    with wb.faults.injected(at="commit", lose=True):
        end = wb.launch(project, "python", code=GOOD).wait(60)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("commit_failed", True)
    assert "good cannot be read back the same" in end.message
    assert isinstance(wb.launch(project, "python", code=GOOD).wait(60), DoneEvent)


@pytest.mark.parametrize("mode", ["0o000", "0o200", "0o100"])
def test_a_file_that_its_own_job_cannot_read_is_committed(wb: Workbench, project: Project, mode: str) -> None:
    run = wb.launch(project, "python", code=f"import os\nopen('f', 'w').write('kept')\nos.chmod('f', {mode})")
    end = run.wait(60)
    assert isinstance(end, DoneEvent), end
    assert end.commit is not None
    assert (end.commit.changed, end.commit.compared) == (1, 1)
    assert wb.volume(project).read("f") == b"kept"
    assert all(check.ok for check in wb.runs.verify(run.run_id, wait_s=30))
    seen = wb.launch(project, "python", code="import os; print(oct(os.stat('f').st_mode & 0o777))")
    assert isinstance(seen.wait(60), DoneEvent)
    assert int(seen.text().strip(), 8) == int(mode, 8)


def test_a_directory_that_its_own_job_cannot_enter_is_committed(wb: Workbench, project: Project) -> None:
    code = "import os\nos.mkdir('d')\nopen('d/f', 'w').write('kept')\nos.chmod('d', 0)"
    assert isinstance(wb.launch(project, "python", code=code).wait(60), DoneEvent)
    assert wb.volume(project).read("d/f") == b"kept"
