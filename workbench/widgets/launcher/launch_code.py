"""Writes the call that a form makes as code: for a shell, a TypeScript server, and Python.

The code never contains the secret: it reads it from the environment of whoever runs it.
"""

import json
import shlex
from typing import Any

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.headers import SECRET_HEADER
from modal_app.contract.requests import Request
from workbench.deployment.app_secrets import SECRET_VARIABLE

_TYPESCRIPT = """\
const response = await fetch({url}, {{
  method: "POST",
  headers: {{ "{header}": process.env.{secret} ?? "", "Content-Type": "application/json" }},
  body: JSON.stringify({body}),
}});
if (!response.ok || !response.body) throw new Error(await response.text());
const decoder = new TextDecoder();
for await (const piece of response.body) process.stdout.write(decoder.decode(piece, {{ stream: true }}));
"""

_PYTHON = """\
import workbench

wb = workbench.connect({connect})
project = workbench.Project(
    user_id={user!r},
    project_id={project!r},
)
run = wb.launch(
    project,
    {action!r},{fields}
)
run.wait()
"""


def body(request: Request) -> dict[str, Any]:
    """The shortest body that means this request."""
    names = {"user_id", "project_id", "action", "op"}
    return request.model_dump(mode="json", include=names) | request.model_dump(mode="json", exclude_defaults=True)


def calls(request: Request, url: str, *, target: str, app_name: str = DEFAULT_APP_NAME) -> dict[str, str]:
    """The call by language; `target` is what `workbench.connect` takes."""
    return {
        "curl": _curl(f"{url}/generate", body(request)),
        "TypeScript": _typescript(f"{url}/generate", body(request)),
        "Python": _python(body(request), target, app_name),
    }


def _curl(url: str, data: dict[str, Any]) -> str:
    return (
        f"# {SECRET_VARIABLE} is the secret that `workbench endpoint --json` tells\n"
        f'curl -N {shlex.quote(url)} -H "{SECRET_HEADER}: ${SECRET_VARIABLE}" \\\n'
        f"  -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(data, ensure_ascii=False))}\n"
    )


def _typescript(url: str, data: dict[str, Any]) -> str:
    text = json.dumps(data, indent=2).replace("\n", "\n  ")
    return _TYPESCRIPT.format(header=SECRET_HEADER, url=json.dumps(url), secret=SECRET_VARIABLE, body=text)


def _python(data: dict[str, Any], target: str, app_name: str) -> str:
    given = {name: value for name, value in data.items() if name not in ("user_id", "project_id", "action")}
    connect = repr(target) + (f", app_name={app_name!r}" if app_name != DEFAULT_APP_NAME else "")
    return _PYTHON.format(
        connect=connect,
        user=data["user_id"],
        project=data["project_id"],
        action=data["action"],
        fields="".join(f"\n    {name}={value!r}," for name, value in given.items()),
    )
