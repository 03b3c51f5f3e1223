#!/bin/sh
# papermill 2.7.0, ipykernel 7.4.0
#
# Papermill runs notebooks in CI: one that raises fails the build, and the executed copy marks each cell as completed,
# failed or pending.
#
# Likely guess: `execute_notebook` returns when the last cell has run; and in the copy of a notebook that did not get so
# far, the cells behind the one that failed are pending.
# Seen, first: a cell with `sys.exit(0)` (a habit from scripts: "nothing to do today") ends the notebook, and papermill
# returns as for a success. The assertions behind it never run.
# Seen, second: when the kernel dies, papermill raises, but its copy calls every cell completed, also those behind the one
# in which it died. Only their start time is missing.
#
# Why it matters: a regression notebook is green without having asserted anything; and who opens the copy of a red one
# looks for the fault in the wrong cell. Compare the cells that ran with the cells that there are, and go by start times.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q papermill==2.7.0 ipykernel==7.4.0
export JUPYTER_PATH="$place/venv/share/jupyter" IPYTHONDIR="$place/ipython"
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import nbformat
import papermill


def run(name, *sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, f"{name}.ipynb")
    try:
        papermill.execute_notebook(f"{name}.ipynb", f"{name}.out.ipynb", progress_bar=False)
        ended = "returned"
    except Exception as error:
        ended = f"raised {type(error).__name__}"
    cells = nbformat.read(f"{name}.out.ipynb", as_version=4).cells
    known = [(cell.source, cell.metadata.papermill) for cell in cells]
    return ended, {source: (about.status, about.start_time is not None) for source, about in known}


ended, cells = run("leaves", "1", "import sys; sys.exit(0)", "assert False, 'never reached'")
print("sys.exit(0):     ", ended, cells)
assert ended == "returned"
assert cells["assert False, 'never reached'"] == ("pending", False)

ended, cells = run("dies", "1", "import os; os._exit(1)", "2", "3")
print("the kernel dies: ", ended, cells)
assert ended == "raised DeadKernelError"
assert cells["2"] == cells["3"] == ("completed", False)
PYTHON
