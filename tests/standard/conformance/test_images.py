"""The unmodified SDK and CLI build images here, and what runs from them finds what they hold.

Packages are made by the tests themselves and copied into the images: no index is asked.
"""

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import modal
import pytest

from tests.standard.conformance.conftest import TIMEOUT_S, Run, build_failure
from tests.support.commands import Cli
from tests.support.packages import source_archive, wheel
from workbench.local_cloud.process.state_directory import Running

HERMETIC = {"extra_options": "--no-index", "find_links": "/wheels"}


def with_wheels(*wheels: Path) -> modal.Image:
    """An image that holds some wheels."""
    image = modal.Image.debian_slim()
    for path in wheels:
        image = image.add_local_file(path, "/wheels/", copy=True)
    return image


@pytest.fixture(scope="module")
def app(cloud: object) -> modal.App:
    return modal.App.lookup("images-tests", create_if_missing=True)


def test_packages_of_the_image_and_their_programs_are_found_in_sandboxes(run: Run, tmp_path: Path) -> None:
    scripts = "[console_scripts]\ngreet = greeting:main\n"
    made = wheel(tmp_path, "greeting", "1.2", "def main():\n    print('hello from the image')\n", scripts=scripts)
    image = with_wheels(made).uv_pip_install("greeting==1.2", **HERMETIC)
    assert run(image, "greet") == "hello from the image\n"
    assert run(image, "python", "-c", "import greeting; greeting.main()") == "hello from the image\n"


@pytest.mark.parametrize("how", ["pip_install", "requirements", "uv_requirements", "pyproject", "path"])
def test_every_way_to_ask_for_packages_installs_them(run: Run, tmp_path: Path, how: str) -> None:
    name = f"asked_{how}"
    made = wheel(tmp_path, name, "3.1", f"WORD = '{how}'\n")
    requirements, project = tmp_path / "needs.txt", tmp_path / "pyproject.toml"
    requirements.write_text(f"# what it needs\n{name}==3.1\n")
    project.write_text(f"[project]\nname = 'x'\nversion = '1'\ndependencies = ['{name}>=3']\n")
    image = with_wheels(made)
    match how:
        case "pip_install":
            image = image.pip_install(f"{name}~=3.0", **HERMETIC)
        case "requirements":
            image = image.pip_install_from_requirements(str(requirements), **HERMETIC)
        case "uv_requirements":
            image = image.uv_pip_install(requirements=[str(requirements)], **HERMETIC)
        case "pyproject":
            image = image.pip_install_from_pyproject(str(project), **HERMETIC)
        case "path":
            image = image.run_commands(f"pip install --no-cache-dir --no-index /wheels/{name}-*.whl")
    assert run(image, "python", "-c", f"import {name}; print({name}.WORD)") == f"{how}\n"


def test_the_image_s_own_version_of_a_package_wins_in_functions(modal_cli: Cli, tmp_path: Path) -> None:
    """The cloud's environment stands behind the image's, so that the SDK works and nothing of the image is hidden."""
    made = wheel(tmp_path, "iniconfig", "99.1", "WORD = 'mine'\n")
    source = tmp_path / "own_version.py"
    source.write_text(f"""
import modal
image = (
    modal.Image.debian_slim().add_local_file({str(made)!r}, "/wheels/", copy=True)
    .pip_install("iniconfig==99.1", find_links="/wheels", extra_options="--no-index")
    .env({{"COLOUR": "deep blue", "QUOTED": "it's $HOME"}}).workdir("/somewhere/else")
)
app = modal.App("own-version", image=image)

@app.function()
def look():
    import importlib.metadata, os, subprocess, iniconfig
    code = "import iniconfig; print(iniconfig.WORD)"
    beside = subprocess.run(["python", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    open("scratch.txt", "w").write("writable")
    version = importlib.metadata.version("iniconfig")
    return [iniconfig.WORD, version, beside, os.environ["COLOUR"], os.environ["QUOTED"], os.getcwd()]

@app.local_entrypoint()
def main():
    import json
    print("LOOKED", json.dumps(look.remote()))
""")
    said = modal_cli("run", str(source))
    found = re.search(r"LOOKED (.*)", said)
    assert found, said
    assert json.loads(found.group(1)) == ["mine", "99.1", "mine", "deep blue", "it's $HOME", "/somewhere/else"]


def test_files_of_image_mounts_and_volumes_are_seen_side_by_side(modal_cli: Cli, tmp_path: Path) -> None:
    """Neither hides the other's, and the image's entrypoint starts the container."""
    (tmp_path / "wrap").write_text('#!/bin/sh\nexport WRAPPED=yes\nexec "$@"\n')
    (tmp_path / "wrap").chmod(0o755)
    for name in ("copied", "mounted"):
        (tmp_path / name).write_text(name)
    source = tmp_path / "side_by_side.py"
    source.write_text(f"""
import modal
here = {str(tmp_path)!r}
image = (
    modal.Image.debian_slim()
    .add_local_file(here + "/wrap", "/opt/tools/wrap", copy=True)
    .add_local_file(here + "/copied", "/data/deep/copied", copy=True)
    .add_local_file(here + "/copied", "/root/deep/copied", copy=True)
    .entrypoint(["/opt/tools/wrap"])
    .add_local_file(here + "/mounted", "/data/deep/mounted")
    .add_local_file(here + "/mounted", "/root/deep/mounted")
    .add_local_file(here + "/mounted", "/opt/other/mounted")
)
app = modal.App("side-by-side", image=image)

@app.function(volumes={{"/data/deep/volume": modal.Volume.from_name("side-by-side", create_if_missing=True)}})
def look():
    import os
    open("/data/deep/volume/note", "w").write("x")
    listed = [sorted(os.listdir(path)) for path in ("/data/deep", "/root/deep", "/opt/tools", "/opt/other")]
    return [*listed, os.environ["WRAPPED"]]

@app.local_entrypoint()
def main():
    import json
    print("LOOKED", json.dumps(look.remote()))
""")
    said = modal_cli("run", str(source))
    found = re.search(r"LOOKED (.*)", said)
    modal_cli("volume", "delete", "side-by-side", "--yes")
    assert found, said
    assert json.loads(found.group(1)) == [
        ["copied", "mounted", "volume"],
        ["copied", "mounted"],
        ["wrap"],
        ["mounted"],
        "yes",
    ]


def test_what_the_cloud_has_already_is_copied_into_the_image(app: modal.App, run: Run) -> None:
    """So that a deployment needs neither an index nor a network for it; what it brings with it comes, too."""
    image = modal.Image.debian_slim().pip_install("fastapi", "rich").uv_pip_install("httpx[http2]<1")
    image.build(app)
    log = "".join(entry.message for entry in image.logs.fetch())
    assert "httpx==" in log
    assert "is taken from the local cloud's own environment" in log
    assert "Resolved" not in log
    where = "import fastapi, httpx, h2, pydantic; print(fastapi.__file__, httpx.__file__, h2.__file__)"
    assert {path.rpartition("/lib/")[0] for path in run(image, "python", "-c", where).split()} == {"/opt/image/venv"}
    assert "Pygments" in run(image, "pygmentize", "-V")


@pytest.mark.parametrize(
    ("asked", "there", "absent"),
    [
        ("rich", ["rich", "pygments"], "httpx"),
        ("pydantic>=2", ["pydantic", "pydantic_core"], "fastapi"),
        ("requests", ["requests", "urllib3", "certifi"], "httpx"),
        ("modal", ["modal", "grpclib"], "papermill"),
    ],
)
def test_a_sandbox_finds_what_its_image_asks_for_and_nothing_of_the_cloud_s(
    run: Run, asked: str, there: list[str], absent: str
) -> None:
    image = modal.Image.debian_slim().pip_install(asked)
    find = "import importlib.util as u, sys; print([u.find_spec(name) is not None for name in sys.argv[1:]])"
    assert run(image, "python", "-c", find, *there, absent) == f"{[*[True] * len(there), False]}\n"


def test_files_are_copied_where_they_belong(run: Run, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "note.txt").write_text("deep")
    (tree / "run.sh").write_text("#!/bin/sh\necho it runs\n")
    (tree / "run.sh").chmod(0o755)
    image = (
        modal.Image.debian_slim()
        .add_local_dir(tree, "/data/tree", copy=True)
        .add_local_file(tree / "run.sh", "/root/bin/start", copy=True)
        .add_local_python_source("workbench.local_cloud.base.ids", copy=True)
    )
    assert run(image, "cat", "/data/tree/deep/er/note.txt") == "deep"
    assert run(image, "/root/bin/start") == "it runs\n"
    assert run(image, "find", "/root/workbench", "-name", "*.py") == "/root/workbench/local_cloud/base/ids.py\n"


def test_dockerfile_commands_are_read_as_docker_reads_them(run: Run, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    image = modal.Image.debian_slim().dockerfile_commands(
        [
            "ARG PLACE=/never",
            "ARG WORD",
            "ENV ONE=1 TWO='two words' \\",
            "    # a comment between",
            '    THREE="$WORD ${ONE} ${NONE:-default}"',
            "WORKDIR /srv/app",
            "WORKDIR inner",
            "LABEL a=b",
            "EXPOSE 80",
            "COPY *.txt texts/",
            "COPY --chmod=700 --chown=1:1 c.md ${PLACE}/renamed.md",
            "RUN mkdir -p empty/place && echo done",
        ],
        context_dir=tmp_path,
        build_args={"PLACE": "/srv/other", "WORD": "given"},
    )
    look = "import os; print(os.getcwd(), [os.environ[n] for n in ('ONE', 'TWO', 'THREE')], sorted(os.listdir()))"
    assert run(image, "python3", "-c", look) == (
        "/srv/app/inner ['1', 'two words', 'given  default'] ['empty', 'texts']\n"
    )
    assert run(image, "ls", "texts", workdir=None) == "a.txt\nb.txt\n"
    assert run(image, "sh", "-c", "cat /srv/other/renamed.md; echo x > empty/place/x; cat empty/place/x") == "c.mdx\n"


def test_volumes_and_directories_may_lie_among_the_image_s_files_in_sandboxes(app: modal.App, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the image")
    image = (
        modal.Image.debian_slim()
        .add_local_file(tmp_path / "file", "/data/inner/file", copy=True)
        .run_commands("mkdir -p /data/inner/cache/deeper /data/inner/cache")
    )
    with modal.Volume.ephemeral() as volume:
        volumes = {"/data/inner/volume": volume}
        sandbox = modal.Sandbox.create(app=app, image=image, timeout=TIMEOUT_S, volumes=volumes)
        try:
            write = "cd /data/inner; echo 1 > volume/x; echo 2 > cache/deeper/x; cat file volume/x cache/deeper/x; ls"
            process = sandbox.exec("sh", "-c", write)
            assert process.stdout.read() == "of the image1\n2\ncache\nfile\nvolume\n"
            changed = sandbox.exec("sh", "-c", "echo 3 > /data/inner/file; cat /data/inner/file")
            assert changed.stdout.read() == "3\n"
        finally:
            sandbox.terminate()


def test_entrypoint_and_cmd_start_in_sandboxes(app: modal.App) -> None:
    image = modal.Image.debian_slim().entrypoint(["/bin/echo", "entry"]).cmd(["and", "cmd"])
    for arguments, expected in (((), "entry and cmd\n"), (("and", "mine"), "entry and mine\n")):
        sandbox = modal.Sandbox.create(*arguments, app=app, image=image, timeout=TIMEOUT_S)
        sandbox.wait()
        assert sandbox.stdout.read() == expected


def test_global_node_packages_are_found(run: Run, tmp_path: Path) -> None:
    package = tmp_path / "shout"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "shout", "version": "1.0.0", "bin": {"shout": "cli.js"}}))
    (package / "cli.js").write_text("#!/usr/bin/env node\nconsole.log(process.argv.slice(2).join(' ').toUpperCase())\n")
    with tarfile.open(tmp_path / "shout-1.0.0.tgz", "w:gz") as archive:
        archive.add(package, "package")
    image = (
        modal.Image.debian_slim()
        .add_local_file(tmp_path / "shout-1.0.0.tgz", "/packages/", copy=True)
        .run_commands("npm install -g --ignore-scripts --offline /packages/shout-1.0.0.tgz")
    )
    assert run(image, "shout", "hello", "there") == "HELLO THERE\n"


def test_a_project_is_synced(run: Run, tmp_path: Path) -> None:
    made = wheel(tmp_path, "synced", "1.0", "WORD = 'synced'\n")
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['synced']\n"
    )
    image = with_wheels(made).uv_sync(str(tmp_path), frozen=False, extra_options="--no-index --find-links /wheels")
    assert run(image, "python", "-c", "import synced; print(synced.WORD)") == "synced\n"


def test_equal_layers_are_built_once_and_forced_ones_anew(
    app: modal.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, "once", "1.0", "")

    def image() -> modal.Image:
        return with_wheels(made).pip_install("once", env={"HINT": "the same"}, **HERMETIC)

    first = image().build(app).object_id
    assert image().build(app).object_id == first
    monkeypatch.setenv("MODAL_FORCE_BUILD", "1")
    forced = image().build(app).object_id
    assert forced != first
    monkeypatch.delenv("MODAL_FORCE_BUILD")
    assert image().build(app).object_id == forced
    assert modal.Image.from_id(first).build(app).object_id == first


def test_the_command_line_shows_the_build_and_a_failure_may_be_retried(modal_cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "retried.py"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    source.write_text(f"""
import modal
image = (
    modal.Image.debian_slim().add_local_dir({str(wheels)!r}, "/wheels", copy=True)
    .pip_install("late", find_links="/wheels", extra_options="--no-index")
)
app = modal.App("retried-images", image=image)

@app.function()
def f(): ...
""")
    (wheels / "readme").write_text("nothing yet")
    said = modal_cli("deploy", str(source), check=False)
    assert "late" in said
    assert "Image build for im-" in said
    wheel(wheels, "late", "1.0", "")
    assert "+ late==1.0" in modal_cli("deploy", str(source))
    modal_cli("app", "stop", "retried-images", "--yes")


def test_builds_see_nothing_of_the_cloud(app: modal.App, run: Run, tmp_path: Path) -> None:
    """A package's own code runs while it is built: it must not find credentials, or change its parent's files."""
    setup = """
found = sorted(name for name in os.environ if name.startswith("MODAL_TOKEN") or "SERVER_URL" in name)
problems = []
for path in ("/usr/evil", "/wheels/evil", "/opt/image/npm/evil", "/etc/evil-passwd/x"):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w")
    except OSError:
        continue
    problems.append(path)
source = f"FOUND = {found!r}\\nWRITTEN = {problems!r}\\nHOME = {os.listdir(os.path.expanduser('~'))!r}\\n"
"""
    image = with_wheels(source_archive(tmp_path, "curious", "1.0", setup)).uv_pip_install("curious", **HERMETIC)
    look = "import curious; print(curious.FOUND, curious.WRITTEN, os.path.exists('/etc/evil-passwd'))"
    assert run(image, "python", "-c", f"import os; {look}") == "[] ['/etc/evil-passwd/x'] False\n"


def test_secrets_of_a_build_reach_it_and_not_its_log(app: modal.App, run: Run, tmp_path: Path) -> None:
    setup = 'print("the word is", os.environ["WORD"]); source = f"LENGTH = {len(os.environ[\'WORD\'])}"'
    made = source_archive(tmp_path, "secretive", "1.0", setup)
    secret = modal.Secret.from_dict({"WORD": "open-sesame"})
    image = with_wheels(made).pip_install(
        "secretive", secrets=[secret], **{**HERMETIC, "extra_options": "--no-index -v"}
    )
    assert (
        run(image, "python", "-c", "import os, secretive; print(secretive.LENGTH, 'WORD' in os.environ)")
        == "11 False\n"
    )
    log = "".join(entry.message for entry in image.logs.fetch())
    assert "the word is ***" in log
    assert "open-sesame" not in log
    assert "open-sesame" not in build_failure(app, image.run_commands("make $WORD", secrets=[secret]))


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (
            lambda i: i.dockerfile_commands("RUN --mount=type=secret,id=x,required pip install y"),
            "RUN --mount=type=secret,id=x requires",
        ),
        (lambda i: i.dockerfile_commands("RUN --mount=type=ssh pip install y"), "RUN --mount=type=ssh is not"),
        (lambda i: i.pip_install("x", gpu="T4"), "GPUs are not available"),
    ],
)
def test_what_cannot_be_had_here_is_refused_by_name(
    app: modal.App, refused: Callable[[modal.Image], modal.Image], reason: str
) -> None:
    assert reason in build_failure(app, refused(modal.Image.debian_slim()))


def test_installed_packages_of_this_machine_are_taken(app: modal.App) -> None:
    """Nothing is downloaded for them, and the image needs no root file system for its build."""
    image = modal.Image.debian_slim().apt_install("bubblewrap", "libseccomp2")
    image.build(app)
    log = [entry.message for entry in image.logs.fetch()]
    assert log == ["FROM base\n", "RUN apt-get update\n", "RUN apt-get install -y bubblewrap libseccomp2\n"]


def test_what_installers_leave_may_be_removed(run: Run) -> None:
    script = "apt-get update && rm -rf /var/lib/apt/lists/* /tmp/* ~/.cache /root/.cache/pip"
    assert run(modal.Image.debian_slim().run_commands(script), "echo", "built") == "built\n"


def test_a_python_for_another_base_that_is_not_installed_is_named_with_its_command(app: modal.App) -> None:
    with pytest.raises(modal.exception.Error, match=r"uv python install 3\.15t"):
        modal.Image.from_registry("ubuntu:22.04", add_python="3.15t").build(app)


def test_an_image_that_is_not_there_is_told_in_modal_s_words(app: modal.App) -> None:
    image = modal.Image.debian_slim().env({"GONE": "1"}).build(app)
    modal.Image.from_id(image.object_id).build(app)
    modal.experimental.image_delete(image.object_id)
    for image_id in (image.object_id, "im-nosuch"):
        with pytest.raises(modal.exception.NotFoundError, match=f"Could not find image with ID {image_id}"):
            modal.Image.from_id(image_id).build(app)
        with pytest.raises(modal.exception.NotFoundError, match=f"No Image with ID {image_id}"):
            modal.experimental.image_delete(image_id)


def test_files_that_are_added_without_a_copy_are_in_sandboxes(cloud: Running, tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("print('ran')")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "deep.txt").write_text("deep")
    image = (
        modal.Image.debian_slim()
        .add_local_file(tmp_path / "tool.py", "/root/tool.py")
        .add_local_dir(tmp_path / "tree", "/data/tree")
    )
    app = modal.App.lookup("images-tests", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=120)
    try:
        assert sandbox.exec("python3", "/root/tool.py").stdout.read() == "ran\n"
        assert sandbox.exec("cat", "/data/tree/deep.txt").stdout.read() == "deep"
        assert sandbox.exec("sh", "-c", "echo x > /root/tool.py").wait() != 0
        assert sandbox.exec("sh", "-c", "echo x > /root/own").wait() == 0
    finally:
        sandbox.terminate(wait=True)


@pytest.mark.parametrize("version", ["2025.06", "2026.10"])
def test_images_tell_the_builder_version_that_they_were_asked_for(
    app: modal.App, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Also those on another image, and those that have a root file system of their own."""
    monkeypatch.setenv("MODAL_IMAGE_BUILDER_VERSION", version)
    base = modal.Image.debian_slim().env({"BUILDER": version})
    for image in (base, base.env({"A": "1"}), base.run_commands("echo 1 > /etc/mine")):
        image.build(app)
        assert getattr(image._get_metadata(), "image_builder_version", "") == version
