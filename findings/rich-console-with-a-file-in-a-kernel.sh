#!/bin/sh
# rich 15.0.0, ipykernel 7.4.0, nbclient 0.11.0
#
# `rich.console.Console(file=...)` writes what is printed to that file. Programs use it with an `io.StringIO` to lay out a
# table and take it as text: for a log, for `text/plain` of a representation, for a test.
#
# Likely guess: with a file of one's own, where the program runs makes no difference.
# Seen: in a Jupyter kernel the file stays empty. Rich notices the kernel and shows the text as an output of the running
# cell instead, as HTML; `capture()` gives an empty string, too. With `force_jupyter=False` the file gets the text.
#
# Why it matters: a helper that returns an aligned table returns nothing in a notebook, and every call of it leaves a
# stray output in a cell that shows something else; the same helper passes all tests that run outside of a kernel.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q rich==15.0.0 ipykernel==7.4.0 nbclient==0.11.0
export JUPYTER_PATH="$place/venv/share/jupyter" IPYTHONDIR="$place/ipython"
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import nbformat
from nbclient import NotebookClient

SOURCE = """
import io
from rich.console import Console
file = io.StringIO()
Console(file=file, width=40, {option}).print("a line")
"kept: " + repr(file.getvalue())
"""


def outputs(option):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE.format(option=option))])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return [(one.output_type, one.data["text/plain"].strip()) for one in notebook.cells[0].outputs]


usual, forced = outputs("color_system=None"), outputs("force_jupyter=False, color_system=None")
print("as usual:             ", usual)
print("force_jupyter=False:  ", forced)
assert ("display_data", "a line") in usual
assert usual[-1] == ("execute_result", '"kept: \'\'"')
assert forced == [("execute_result", '"kept: \'a line\\\\n\'"')]
PYTHON
