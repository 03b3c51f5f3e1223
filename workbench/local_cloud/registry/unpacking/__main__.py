"""Unpacks as a script, into the working directory, with what stands beside it alone; the parent gives the descriptors.

`python -IS …/unpacking --blob FD --diff-id sha256:… --report FD [--below FD]`
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))  # where this project's packages are

from workbench.local_cloud.registry.unpacking import unpack_in_child

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unpack a layer into the working directory.")
    parser.add_argument("--blob", type=int, required=True)
    parser.add_argument("--diff-id", required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--below", type=int)
    given = parser.parse_args()
    unpack_in_child(given.blob, given.diff_id, report=given.report, below=given.below)
