"""Failure modes of who may do what, brought about."""

from workbench.failures.experiments.basics import Experiment, Outcome, done, running
from workbench.failures.sides import CANARY, Side
from workbench.runs.project import Project


def _in_a_foreign_project(side: Side, project: Project) -> Outcome:
    """A project's id that leads into somebody else's directory."""
    other = Project.new()
    side.run(other, "open('secret.txt', 'w').write('of somebody else')")
    ids = {
        "project": f"{project.user_id}/../{other.user_id}/{other.project_id}",
        "project_id": f"../{other.user_id}/{other.project_id}",
    }
    asked = side.request(project, "", None)
    body = {name: value for name, value in ids.items() if name in asked}
    return Outcome((side.run(project, "print(open('secret.txt').read())", body=body),))


SECURITY: dict[str, Experiment] = {
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
}


def _secret_words(environment: str) -> str:
    return next((word for word in ("KEY", "SECRET", "TOKEN", "PASSWORD") if word in environment.upper()), "")
