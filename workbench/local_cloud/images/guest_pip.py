"""`python -m pip` in an image's environment, which is made without pip: it is the module `pip` there, in this one file.

It runs the pip that the environment's Python brings along, or else the one of the machine's system. A pip that is
installed into the environment is a package, which Python prefers to this module.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

OF_THE_SYSTEM = Path("/usr/lib/python3/dist-packages/pip")


def main() -> None:
    """Run a pip that is there, without anything of what lies beside it; exits with a sentence when there is none."""
    sys.modules.pop("pip", None)
    brought = importlib.util.find_spec("ensurepip")
    places = [Path(brought.origin).parent / "_bundled"] if brought and brought.origin else []
    for place in (*places, Path("/usr/share/python-wheels")):
        for wheel in place.glob("pip-*.whl"):
            sys.path.insert(0, str(wheel))  # has nothing but pip
            runpy.run_module("pip", run_name="__main__", alter_sys=True)
            return
    spec = importlib.util.spec_from_file_location(
        "pip", OF_THE_SYSTEM / "__init__.py", submodule_search_locations=[str(OF_THE_SYSTEM)]
    )
    if not OF_THE_SYSTEM.is_dir() or spec is None or spec.loader is None:
        sys.exit("pip is not here: name packages in the image, or install python3-pip on the machine of the cloud")
    sys.modules["pip"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pip"])
    runpy.run_module("pip.__main__", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
