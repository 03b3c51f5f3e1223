#!/bin/sh
# nbformat 5.11.1, jupyter-events 0.12.1, jsonschema 4.26.0, rfc3987-syntax 1.1.0
#
# `import nbformat` is where papermill, nbconvert, nbval and JupyterLab begin.
#
# Likely guess: it takes the same time wherever it is installed, a tenth of a second; JupyterLab in the same environment
# makes no difference to a program that only reads notebooks.
# Seen: jupyter-events, which Jupyter's server needs, asks for jsonschema's extra `format-nongpl`, and that for
# rfc3987-syntax. From then on jsonschema imports it to check texts of the format "iri", which no schema of a notebook
# has, and it compiles a grammar of IRIs at its import. The import takes several times as long as it did, a second of
# processor time and more. Without the one package jsonschema works as before, and leaves that one format unchecked.
#
# Why it matters: each papermill of a CI job, each `jupyter` command and each pytest with nbval pays it, though nothing
# in the job has to do with IRIs; nothing but `python -X importtime` tells why.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q nbformat==5.11.1 jsonschema==4.26.0
cd "$place"
cat > took.py <<'PYTHON'
import statistics
import subprocess
import sys

CODE = "import time; before = time.process_time(); import nbformat; print(time.process_time() - before)"
print(statistics.median(float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(5)))
PYTHON
"$place/venv/bin/python" took.py > /dev/null  # compiles modules
alone=$("$place/venv/bin/python" took.py)
"$place/venv/bin/pip" install -q jupyter-events==0.12.1 rfc3987-syntax==1.1.0 nbformat==5.11.1 jsonschema==4.26.0
"$place/venv/bin/python" took.py > /dev/null
beside=$("$place/venv/bin/python" took.py)
"$place/venv/bin/pip" uninstall -q -y rfc3987-syntax
without=$("$place/venv/bin/python" took.py)
echo "nbformat alone:                      $alone s"
echo "with jupyter-events installed, too:  $beside s"
echo "the same without rfc3987-syntax:     $without s"
"$place/venv/bin/python" - "$alone" "$beside" "$without" <<'PYTHON'
import sys

import nbformat

alone, beside, without = map(float, sys.argv[1:])
nbformat.validate(nbformat.v4.new_notebook())
assert beside > 3 * alone, "the import is no longer that slow"
assert beside > 3 * without, "another package is the cause"
PYTHON
echo "as described"
