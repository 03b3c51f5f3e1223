"""A repository's own settings change nothing of what the action `git` does, runs and prints."""

from typing import Any

import pytest

from tests.standard.modal_app.test_actions import act, job
from workbench import Project, Workbench

TRAP = "/tmp/trap.sh"
# What stands in the repository's configuration, and in its attributes. `TRAP` marks that it was run.
SETTINGS = {
    "a filter that fails": ('[filter "evil"]\n clean = false\n smudge = false\n required = true\n', "* filter=evil\n"),
    "programs": (
        """
[core]
fsmonitor = {trap}
hooksPath = /workspace/hooks
editor = {trap}
pager = {trap}
sshCommand = {trap}
askPass = {trap}
alternateRefsCommand = {trap}
[gpg]
program = {trap}
[commit]
gpgSign = true
[log]
showSignature = true
[diff]
external = {trap}
[credential]
helper = {trap}
[sequence]
editor = {trap}
[filter "evil"]
clean = {trap}
smudge = {trap}
process = {trap}
required = true
[diff "evil"]
command = {trap}
textconv = {trap}
[merge "evil"]
driver = {trap}
""",
        "* filter=evil diff=evil merge=evil\n",
    ),
    "another work tree": ("[core]\n worktree = /tmp/elsewhere\n", ""),
    "none at all": ("[core]\n bare = true\n worktree = /tmp/elsewhere\n", ""),
    "what is printed": (
        """
[color]
ui = always
diff = always
status = always
[core]
quotePath = true
abbrev = 4
[diff]
noprefix = true
mnemonicPrefix = true
renames = false
context = 0
wordRegex = .
orderFile = /workspace/a
relative = true
[status]
showUntrackedFiles = no
branch = true
[log]
date = relative
decorate = full
follow = true
[format]
pretty = raw
""",
        "",
    ),
    "what is committed": (
        """
[core]
autocrlf = true
eol = crlf
safecrlf = true
fileMode = false
symlinks = false
excludesFile = /workspace/ignored
attributesFile = /workspace/ignored
ignoreCase = true
sparseCheckout = true
[commit]
cleanup = scissors
template = /nowhere
verbose = true
[user]
useConfigOnly = true
name = other
email = other
[author]
name = other
[add]
ignoreErrors = true
[i18n]
logOutputEncoding = UTF-16
commitEncoding = UTF-16
""",
        "",
    ),
    "files that it includes": ("[include]\n path = /workspace/more\n", "* filter=evil\n"),
    "an extension that nobody knows": ("[core]\n repositoryFormatVersion = 1\n[extensions]\n evil = true\n", ""),
    "what is no configuration": ('[core\n "', ""),
}
CHOSEN = ("programs", "what is no configuration")  # `workbench test --all` has them all
PLANT = """
import pathlib, subprocess
pathlib.Path({trap!r}).write_text("#!/bin/sh\\ntouch /workspace/sprung\\ncat\\n"); pathlib.Path({trap!r}).chmod(0o755)
hooks = pathlib.Path("hooks"); hooks.mkdir(exist_ok=True)
for name in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout"):
    (hooks / name).write_text("#!/bin/sh\\ntouch /workspace/sprung\\n"); (hooks / name).chmod(0o755)
pathlib.Path("more").write_text('[filter "evil"]\\n clean = touch /workspace/sprung; cat\\n')
pathlib.Path("ignored").write_text("*\\n")
pathlib.Path(".gitattributes").write_text({attributes!r})
with open(".git/config", "a") as config: config.write({settings!r})
"""


def story(wb: Workbench, project: Project) -> list[Any]:
    """All operations, one after the other, and what is seen of them, without hashes and times."""
    seen: list[Any] = []
    files = [{"path": "é b/ü.txt", "content": "one\r\ntwo\n"}, {"path": "a", "content": "1\n"}]
    first = act(wb, project, "files", "write", files=files, message="# first\n\nbody\n# end")
    seen.append(first["changed"])
    job(wb, project, "import os; open('run.sh', 'w').close(); os.chmod('run.sh', 0o755); os.rename('a', 'A')")
    status = act(wb, project, "git", "status")
    seen.append(sorted((entry["path"], entry["index"], entry["worktree"]) for entry in status["entries"]))
    second = act(wb, project, "git", "commit", message="Zwölf Boxkämpfer\n\n# kept")
    act(wb, project, "files", "write", files=[{"path": "é b/ü.txt", "content": "two\r\n"}])
    patch = act(wb, project, "git", "diff", base=first["commit"], head=second["commit"])["patch"]
    seen += [patch, act(wb, project, "git", "diff")["patch"]]
    for entry in act(wb, project, "git", "log")["entries"][:2]:
        seen.append({**entry, "commit": "", "parents": len(entry["parents"]), "date": len(entry["date"])})
    act(wb, project, "git", "restore", commit=first["commit"], paths=["é b/ü.txt"])
    seen.append(act(wb, project, "files", "read", path="é b/ü.txt")["content"])
    act(wb, project, "git", "restore", commit=second["commit"])
    seen.append(act(wb, project, "git", "status")["clean"])
    return seen


def prepared(wb: Workbench, project: Project, settings: str, attributes: str) -> Project:
    act(wb, project, "git", "init")
    job(wb, project, PLANT.format(trap=TRAP, attributes=attributes, settings=settings.format(trap=TRAP)))
    return project


@pytest.fixture(scope="module")
def plain(wb: Workbench) -> list[Any]:
    """The story of a repository with no settings of its own."""
    return story(wb, prepared(wb, Project.new(), "", ""))


def test_the_story_is_the_right_one(plain: list[Any]) -> None:
    assert plain[0]
    assert plain[1] == [("A", "?", "?"), ("a", "", "D"), ("run.sh", "?", "?")]
    assert "rename from a\nrename to A\n" in plain[2]
    assert "new file mode 100755" in plain[2]
    assert "-one\r\n" in plain[3]
    assert [entry["subject"] for entry in plain[4:6]] == ["Zwölf Boxkämpfer", "# first"]
    assert plain[4]["author"] == "workbench"
    assert plain[6:] == ["one\r\ntwo\n", True]


@pytest.mark.parametrize("name", CHOSEN)
def test_settings_change_nothing(wb: Workbench, project: Project, plain: list[Any], name: str) -> None:
    change_nothing(wb, project, plain, name)


def change_nothing(wb: Workbench, project: Project, plain: list[Any], name: str) -> None:
    prepared(wb, project, *SETTINGS[name])
    assert story(wb, project) == plain
    assert "sprung" not in {entry["path"] for entry in act(wb, project, "files", "list")["entries"]}


MAKES = {
    "a directory elsewhere": """
git("init", "-q", "--separate-git-dir=store", ".")
open(".gitignore", "w").write("/store")
""",
    "other hashes": 'git("init", "-q", "--object-format=sha256")',
    "a work tree of another one": """
import os
git("init", "-q", "else"); git("-C", "else", "commit", "-q", "--allow-empty", "-m", "m")
git("-C", "else", "worktree", "add", "-q", "--no-checkout", "-b", "side", "../tree")
os.rename("tree/.git", ".git"); git("worktree", "repair")
open(".gitignore", "w").write("/else")
""",
}


def test_a_repository_of_another_make_is_worked_with(wb: Workbench, project: Project) -> None:
    is_worked_with(wb, project, "a work tree of another one")


def is_worked_with(wb: Workbench, project: Project, make: str) -> None:
    """Fail unless all operations do their work in a repository that somebody has made in another way."""
    job(wb, project, f"import subprocess\ndef git(*a): subprocess.run(['git', *a], check=True)\n{MAKES[make]}")
    first = act(wb, project, "files", "write", files=[{"path": "a", "content": "1"}], message="first")
    assert first["changed"]
    act(wb, project, "files", "write", files=[{"path": "a", "content": "2"}], message="second")
    subjects = [entry["subject"] for entry in act(wb, project, "git", "log", limit=2)["entries"]]
    assert subjects == ["second", "first"]
    act(wb, project, "git", "restore", commit=first["commit"])
    assert act(wb, project, "files", "read", path="a")["content"] == "1"
    seen = job(wb, project, "import subprocess; subprocess.run(['git', 'log', '-1', '--format=%s'], check=True)")
    assert seen == "second\n"


def test_a_log_outside_of_a_repository_fails(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "git", op="log")
    end = run.wait(60)
    assert (end.type, end.code, end.exit_code) == ("error", "process_failed", 128)
    assert "not a git repository" in run.text("stderr")


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16"])
def test_commits_in_another_encoding_are_told_as_text(wb: Workbench, project: Project, encoding: str) -> None:
    """What a commit says of itself may be false; the log is well formed all the same."""
    are_told_as_text(wb, project, encoding)


def are_told_as_text(wb: Workbench, project: Project, encoding: str) -> None:
    """Fail unless the log has a commit that says it is in an encoding."""
    code = f"""
import subprocess
def git(*arguments, **more): subprocess.run(["git", *arguments], check=True, **more)
git("init", "-q")
said = "Gr\\xfc\\xdfe".encode("latin-1")
git("-c", "i18n.commitEncoding={encoding}", "commit", "-q", "--allow-empty", "-F", "-", input=said)
"""
    job(wb, project, code)
    act(wb, project, "files", "write", files=[{"path": "a", "content": "1"}], message="after")
    entries = act(wb, project, "git", "log")["entries"]
    assert entries[0]["subject"] == "after"
    assert len(entries) == 2
    assert entries[0]["parents"] == [entries[1]["commit"]]
    if encoding == "ISO-8859-1":
        assert entries[1]["subject"] == "Grüße"
