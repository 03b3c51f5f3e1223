"""Failure modes of files that should have been kept, brought about."""

import time
from concurrent.futures import ThreadPoolExecutor

from workbench.failures.experiments.basics import (
    COUNTS,
    WRITES,
    Act,
    Experiment,
    Outcome,
    begun,
    done,
    file_is,
    first,
    kept,
    lied,
    not_the_file,
    of_its_commits,
    of_its_program,
    running,
    running_and_reading,
    same,
    told,
)
from workbench.failures.sides import Side
from workbench.runs.project import Project


def _at_once(code: str) -> Act:
    """Two requests for the same project, the second while the first works."""

    def act(side: Side, project: Project) -> Outcome:
        first = begun(side, project, f"print('begun', flush=True){code}")
        second = side.run(project, code)
        return Outcome((first.result(), second), {"file": side.read(project, "count")})

    return act


_BEGINS_A_COMMIT = """
import os, subprocess
subprocess.run(['git', 'init', '-q'], check=True)
open('note.txt', 'w').write('kept')
subprocess.run(['git', 'add', '.'], check=True)
print('begun', flush=True)
words = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-a']
subprocess.run(words, env={**os.environ, 'GIT_EDITOR': 'sleep 60 #'})
print('ended', flush=True)
"""
_COMMITS = """
import subprocess
words = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qam', 'later']
done = subprocess.run(words, capture_output=True)
print('git ended with', done.returncode)
"""


def _killed_git(side: Side, project: Project) -> Outcome:
    """A job whose git is killed in the middle of a commit, and the next job of the project, which commits."""
    killed = side.run(project, _BEGINS_A_COMMIT, timeout_s=3)
    kept(side, project)
    seen = (killed, side.run(project, _COMMITS))
    return Outcome(seen, fired={"a git was killed in its commit": int(killed.text == "begun\n")})


_BIG = 48 * 1024 * 1024
_LEAVES_FILES = f"""
open('big.bin', 'wb').write(bytes({_BIG}))
open('note.txt', 'w').write('kept')
print('written')
"""


def _two_downloads(side: Side, project: Project) -> Outcome:
    """A small file is asked for again and again while somebody downloads a large one."""
    seen = side.run(project, _LEAVES_FILES)
    kept(side, project)
    statuses: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(side.download, project, "big.bin")
        while not large.done():
            statuses.append(side.download(project, "note.txt")[0])
            time.sleep(_LOOK_S)
        status, size = large.result()
    whole = int(status == 200 and size == _BIG)
    return Outcome((seen,), {"statuses": [*statuses]}, {"a large file was downloaded meanwhile": whole * len(statuses)})


_LOOK_S = 0.02


def _turned_away(seen: Outcome) -> str | None:
    statuses = list(map(str, seen.facts["statuses"])) if isinstance(seen.facts["statuses"], list) else []
    ill = [one for one in statuses if one != "200"]
    return f"{len(ill)} of {len(statuses)} readers of a small file got HTTP {ill[0]}" if ill else None


PERSISTENCE: dict[str, Experiment] = {
    "volume-busy": Experiment(
        act=_two_downloads,
        harm=_turned_away,
        broken=first(done, _turned_away),
    ),
    "missing-commit": Experiment(
        act=running_and_reading(WRITES, "note.txt"),
        rules=of_its_commits(delay_s=2),  # as long as the platform may take
        harm=not_the_file("kept"),
        broken=first(same("written\n"), file_is("kept")),
    ),
    "commit-acknowledged-and-lost": Experiment(
        act=running_and_reading(WRITES, "note.txt"),
        rules=of_its_commits(lose=True),
        harm=lied("nothing of it is kept"),
        broken=first(told("commit_failed"), file_is(None)),
    ),
    "commit-fails": Experiment(
        act=running_and_reading(WRITES, "note.txt"),
        rules=of_its_commits(status="INTERNAL"),
        harm=lied("nothing of it is kept"),
        broken=first(told("commit_failed"), file_is(None)),
    ),
    "two-writers": Experiment(
        act=_at_once(COUNTS.format(pause_s=3)),
        harm=lambda seen: (
            f"both said that they are done, and the file counts {seen.facts['file']!r}"
            if all(one.ended == "done" for one in seen.observations) and seen.facts["file"] != "xx"
            else None
        ),
        broken=lambda seen: (
            None
            if (seen.observations[0].ended, seen.end.ended, seen.end.code) == ("done", "refused", "project_busy")
            else f"the first {seen.observations[0]}, the second {seen.end}"
        ),
    ),
    "volume-full": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, exhaust="disk"),
        harm=lied("its disk was full"),
        broken=told("sandbox_lost", "commit_failed"),
    ),
    "name-cannot-be-committed": Experiment(
        act=running_and_reading("open(b'caf\\xe9', 'w').write('x'); open('note.txt', 'w').write('kept')", "note.txt"),
        harm=lied("one of its files can never be kept"),
        broken=first(told("commit_failed"), file_is("kept")),
    ),
    "stale-git-lock": Experiment(
        act=_killed_git,
        harm=lambda seen: None if seen.end.text == "git ended with 0\n" else f"the next job says: {seen.end.text!r}",
        broken=same("git ended with 0\n"),
    ),
}
