"""`Image.run_function`: a function that runs while an image is built, and what it writes is the image's next layer."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import modal
import pytest

from tests.standard.conformance.conftest import ON_MODAL, Run, build_failure
from tests.support.packages import wheel
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(ON_MODAL, reason="it looks at what this cloud says")
SECRET = "not-to-be-seen-anywhere"


def _loaded() -> ModuleType:
    """The functions, as a program of one file has them."""
    spec = importlib.util.spec_from_file_location("build_steps", ROOT / "tests/support/apps/build_steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["build_steps"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_steps = _loaded()


@pytest.fixture(scope="module")
def app(cloud: object) -> modal.App:
    return modal.App.lookup("build-functions-tests", create_if_missing=True)


def log_of(image: modal.Image) -> str:
    return "".join(entry.message for entry in image.logs.fetch())


def test_what_a_function_writes_is_in_the_image_for_sandboxes_and_functions(app: modal.App, run: Run) -> None:
    image = modal.Image.debian_slim().run_function(build_steps.writes, args=("you",), kwargs={"times": 2})
    image.build(app)
    assert "writing for you\n" in log_of(image)
    assert run(image, "sh", "-c", "cat /made.txt; stat -c %U /made.txt").split() == [*["hello", "you"] * 2, "bob"]
    own = modal.App()
    reader = own.function(image=image)(build_steps.shows)
    with own.run():
        assert reader.remote() == "hello you hello you "


def test_nothing_of_its_container_is_left_in_the_image(app: modal.App, run: Run) -> None:
    """Where code, arguments, volumes and this machine's own Python were mounted, the image has nothing."""
    volume = modal.Volume.from_name("build-function-mounts", create_if_missing=True)
    image = modal.Image.debian_slim().run_function(
        build_steps.writes, args=("them",), volumes={"/mounted/there": volume}
    )
    own = Path(sys.prefix).parts[1]
    assert own not in run(image, "ls", "/").split() or own in ("usr", "root", "opt", "home", "srv", "tmp", "var")
    assert run(image, "sh", "-c", "ls -d /mounted /run/modal /root/*.py 2>&1; true").count("No such file") == 3


def test_volumes_keep_what_is_written_to_them_and_are_no_part_of_the_image(app: modal.App, run: Run) -> None:
    volume = modal.Volume.from_name("build-functions-tests", create_if_missing=True)
    image = modal.Image.debian_slim().run_function(build_steps.in_a_volume, args=["kept"], volumes={"/there": volume})
    image.build(app)
    assert b"".join(volume.read_file("text")) == b"kept"
    assert "text" not in run(image, "sh", "-c", "ls /there 2>&1; true")


@pytest.mark.parametrize("value", [SECRET, f"BEGIN\n{SECRET}\n{SECRET[::-1]}\nEND"])
def test_a_secret_is_there_and_in_no_log(app: modal.App, run: Run, value: str) -> None:
    secrets = [modal.Secret.from_dict({"TOKEN": value})]
    image = modal.Image.debian_slim().run_function(
        build_steps.tells_a_secret, args=(f"in the log of {len(value)}",), secrets=secrets, env={"SETTING": "x"}
    )
    assert run(image, "cat", "/seen") == f"{len(value)}x"
    assert SECRET not in log_of(image)
    assert "the secret is" in log_of(image)
    assert "TOKEN" not in run(image, "env")
    failing = modal.Image.debian_slim().run_function(
        build_steps.tells_a_secret, args=("in an exception",), secrets=secrets, env={"SETTING": "x"}
    )
    failure = build_failure(app, failing)
    assert "ValueError: ***" in failure or "ValueError: BEGIN" in failure
    assert SECRET not in failure


def test_a_layer_is_made_once_for_the_same_function_with_the_same_values(
    app: modal.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments and the global variables decide it, and not the secrets."""

    def built(**options: Any) -> str:
        image = modal.Image.debian_slim().run_function(**{"raw_f": build_steps.counts, **options})
        image.build(app)
        return image.object_id

    first = built()
    assert built() == first
    assert built(args=(1,)) != first
    assert built(kwargs={"number": 1}) not in (first, built(args=(1,)))
    assert built(args=(1,)) == built(args=(1,))
    assert built(force_build=True) != first
    with_greeting = built(raw_f=build_steps.writes, args=("me",))
    monkeypatch.setattr(build_steps, "GREETING", "good day")
    assert built(raw_f=build_steps.writes, args=("me",)) != with_greeting


def test_further_steps_and_functions_stand_on_it(app: modal.App, run: Run) -> None:
    image = modal.Image.debian_slim().run_function(build_steps.counts, args=(1,)).run_commands("echo >> /counted")
    image = image.run_function(build_steps.counts, args=(2,)).env({"COLOUR": "blue"})
    assert [line[:1] for line in run(image, "cat", "/counted").splitlines()] == ["1", "", "2"]
    assert run(image, "printenv", "COLOUR") == "blue\n"


def test_it_has_the_packages_of_the_image(app: modal.App, run: Run, tmp_path: Path) -> None:
    path = wheel(tmp_path, "underneath", "1", "")
    image = modal.Image.debian_slim().add_local_file(path, "/wheels/", copy=True)
    image = image.pip_install("underneath", extra_options="--no-index", find_links="/wheels")
    assert run(image.run_function(build_steps.uses, args=("underneath",)), "cat", "/used") == "underneath"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (build_steps.fails, r"(?s)Traceback.*ValueError: it cannot be done.*about to fail"),
        (build_steps.leaves, r"(?s)ended with exit code 3 before the function had returned.*leaving"),
        (build_steps.leaves_well, r"ended with exit code 0 before the function had returned"),
        (build_steps.is_killed, r"ended with exit code (-9|137) before the function had returned"),
        (build_steps.gives_up, r"giving up"),
    ],
)
def test_a_function_that_fails_ends_the_build_and_says_how(app: modal.App, function: Any, told: str) -> None:
    assert re.search(told, build_failure(app, modal.Image.debian_slim().run_function(function)))


def test_a_function_that_does_not_end_is_ended_with_all_that_it_has_started(app: modal.App) -> None:
    image = modal.Image.debian_slim().run_function(build_steps.never_ends, args=("x",), timeout=4)
    assert "longer than its timeout of 4 s" in build_failure(app, image)
    running = subprocess.run(["pgrep", "-f", "sleep 7654"], capture_output=True, text=True, check=False).stdout
    assert running == ""


def test_children_end_with_it(app: modal.App, run: Run) -> None:
    image = modal.Image.debian_slim().run_function(build_steps.leaves_a_child)
    assert run(image, "sh", "-c", "ls /done; cat /still > /dev/null; echo still") == "/done\nstill\n"


def test_output_without_end_is_cut_off_in_the_log(app: modal.App, run: Run) -> None:
    image = modal.Image.debian_slim().run_function(build_steps.prints_much)
    assert run(image, "ls", "/printed") == "/printed\n"
    assert "further output is not kept" in log_of(image)


def test_options_that_cannot_be_had_are_refused_by_name(app: modal.App) -> None:
    image = modal.Image.debian_slim()
    with pytest.raises(modal.exception.Error, match="GPUs are not available on the local cloud"):
        image.run_function(build_steps.counts, gpu="T4").build(app)
    bucket = modal.CloudBucketMount("bucket")
    with pytest.raises(modal.exception.Error, match="CloudBucketMount is not implemented by the local cloud"):
        image.run_function(build_steps.counts, volumes={"/bucket": bucket}).build(app)
