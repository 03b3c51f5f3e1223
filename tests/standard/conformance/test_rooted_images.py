"""Images with a root file system of their own, built by the unmodified SDK: every instruction, and every method.

Their bases are this machine's own system, and a small image of a registry of the tests' own: no network is needed.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from tests.standard.conformance.conftest import ON_MODAL, TIMEOUT_S, Run, build_failure
from tests.support.commands import Cli
from tests.support.packages import debian_repository, source_archive, wheel
from tests.support.registry import Registry, registry
from tests.support.small_image import small_image

pytestmark = pytest.mark.skipif(ON_MODAL, reason="the registry is on this machine")
HERMETIC = {"extra_options": "--no-index", "find_links": "/wheels"}


@pytest.fixture(scope="module")
def app(cloud: object) -> modal.App:
    return modal.App.lookup("rooted-images-tests", create_if_missing=True)


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    with registry() as served:
        served.push("small:1", small_image({"Env": ["PATH=/bin", "COLOUR=blue"], "Cmd": ["sh"], "WorkingDir": "/srv"}))
        served.push("by-me:1", small_image({"User": "me", "OnBuild": ["RUN id > /tmp/built", "ENV TRIGGERED=yes"]}))
        yield served


@pytest.fixture(scope="module")
def small(served: Registry) -> str:
    """The name of the small image."""
    return served.name("small:1")


def built(app: modal.App, image: modal.Image) -> str:
    """Build an image and return the logs of all its layers."""
    image.build(app)
    return "".join(entry.message for entry in image.logs.fetch(layers=None))


def printed(app: modal.App, image: modal.Image, script: str) -> list[str]:
    """The lines that a shell prints in a further step on an image."""
    further = image.run_commands(" && ".join(script.strip().split("\n")))
    further.build(app)
    lines = [entry.message.rstrip("\n") for entry in further.logs.fetch()]
    return lines[next(number for number, line in enumerate(lines) if line.startswith("RUN ")) + 1 :]


def from_text(directory: Path, text: str, **options: object) -> modal.Image:
    """An image of a Dockerfile whose build context is a directory."""
    path = directory / "Dockerfile"
    path.write_text(text)
    return modal.Image.from_dockerfile(path, context_dir=directory, **options)


def test_stages_arguments_and_here_documents_are_read_as_docker_reads_them(
    app: modal.App, run: Run, small: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.txt").write_text("one\n")
    (tmp_path / "data" / "two.md").write_text("two\n")
    (tmp_path / "data" / "left.out").write_text("left out\n")
    (tmp_path / ".dockerignore").write_text("**/*.out\n")
    image = from_text(
        tmp_path,
        f"""# syntax=docker/dockerfile:1
# escape=`
ARG BASE={small} KIND=early
FROM ${{BASE}} AS First
ARG KIND
ARG GIVEN=default
ARG UNSET
ENV A=1 B="two  words" `
    # a comment between
    C=${{UNSET:-$GIVEN}}-${{KIND}}-${{COLOUR:+coloured}}
RUN echo "$A|$B|$C|$HOME|${{PWD}}|${{LEAKED:-}}" > /said
RUN <<END
set -e
name=$(cat <<'INNER'
$A
INNER
)
echo "shell: $name" >> /said
END
RUN <<-'END' cat >> /said && echo after >> /said
\tdocument $A
\tEND
RUN <<END
#!/bin/cat
not a shell
END
WORKDIR deep/$KIND
RUN pwd >> /said; ln -s /said /link; mkdir /tree; ln -s /etc/passwd /tree/l; chmod 4711 /tree; touch /tree/t
FROM {small} AS unused
RUN false
FROM First AS second
RUN echo "again ${{KIND:-gone}}" >> /said
FROM --platform=linux {small}
COPY --from=SECOND /link /tree /from/
COPY --from=0 /etc/pass* /from/0/
COPY --from={small} /etc/group /from/image
COPY --chown=me:us --chmod=640 data/*.txt data/two.md /data/
ADD ["data", "with blank/"]
COPY <<ONE <<-"TWO" /docs/
colour ${{COLOUR}}
ONE
\traw $COLOUR
\tTWO
LABEL a=b
EXPOSE 80/tcp
VOLUME /vol /vol2
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/bash", "-c"]
RUN [[ -d /vol2 ]] && cat < <(echo in bash)
CMD echo $0
ENTRYPOINT ["/bin/env", "E=1"]
""",
        build_args={"GIVEN": "given", "LEAKED": "never declared"},
    )
    log = built(app, image)
    assert "not a shell\n" in log
    assert "in bash\n" in log
    assert printed(app, image, "cat /from/link") == [
        "1|two  words|given-early-coloured|/root|/srv|",
        "shell: $A",
        "document $A",
        "after",
        "/srv/deep/early",
        "again gone",
    ]
    look = """cd /; head -1 from/0/passwd; head -1 from/image; readlink from/l
stat -c '%U:%G %a %n' data data/* 'srv/with blank'/* docs/* from/t; cat docs/*"""
    assert printed(app, image, look) == [
        *("root:x:0:0:root:/root:/bin/sh", "root:x:0:", "/etc/passwd"),
        *("me:us 755 data", "me:us 640 data/one.txt", "me:us 640 data/two.md"),
        *("root:root 644 srv/with blank/one.txt", "root:root 644 srv/with blank/two.md"),
        *("root:root 644 docs/ONE", "root:root 644 docs/TWO", "root:root 644 from/t"),
        *("colour blue", "raw $COLOUR"),
    ]
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=TIMEOUT_S)
    sandbox.wait()
    assert sandbox.stdout.read() == "/bin/bash\n"
    sandbox.terminate()


def test_users_homes_and_triggers_of_a_base_hold(app: modal.App, served: Registry) -> None:
    image = modal.Image.from_registry(served.name("by-me:1")).dockerfile_commands(
        """RUN id; echo "home $HOME"
WORKDIR /tmp/mine
RUN stat -c 'workdir %U' .
USER 1234:50
ENV HOME=/elsewhere
RUN echo "$(id -u):$(id -g) $HOME"
USER root:us
RUN id -gn
ONBUILD RUN echo "later $TRIGGERED"
ONBUILD USER me
""",
    )
    log = built(app, image).splitlines()
    for line in (
        "home /home/me",
        "workdir me",
        "1234:50 /elsewhere",
        "us",
        "uid=1000(me) gid=1000(me) groups=1000(me),50(us)",
    ):
        assert line in log
    later = built(app, image.run_commands("id -un"))
    assert "later yes\n" in later
    assert later.endswith("me\n")
    assert printed(app, image, "head -1 /tmp/built")[-1].startswith("uid=1000(me)")


def test_archives_are_unpacked_whole_and_never_leave_their_place(app: modal.App, small: str, tmp_path: Path) -> None:
    def packed(name: str, mode: str, *members: tuple[str, dict[str, object], bytes]) -> None:
        with tarfile.open(tmp_path / name, mode) as archive:
            for path, attributes, content in members:
                item = tarfile.TarInfo(path)
                item.size = len(content)
                for key, value in attributes.items():
                    setattr(item, key, value)
                archive.addfile(item, io.BytesIO(content))

    members = [
        ("bin/tool", {"mode": 0o4755, "uid": 1000, "gid": 50}, b"tool"),
        ("away", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "bin/tool"}, b""),
    ]
    for kind in ("gz", "bz2", "xz"):
        packed(f"whole-{kind}.data", f"w:{kind}", *members)
    (tmp_path / "plain.tar").write_text("no archive, whatever its name is")
    packed("up.tar", "w", ("../up", {}, b"x"))
    packed("through.tar", "w", ("l", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, b""), ("l/evil", {}, b"x"))
    steps = "".join(f"ADD whole-{kind}.data /{kind}\n" for kind in ("gz", "bz2", "xz"))
    copied = "COPY *.data *.tar /context/\n"  # what the SDK uploads follows from COPY
    image = from_text(tmp_path, f"FROM {small}\n{copied}{steps}ADD plain.tar /plain/\nCOPY up.tar /up.tar\n")
    look = "cat /plain/plain.tar; for d in /gz /bz2 /xz; do stat -c '%U:%G %a' $d/bin/tool; readlink $d/away; done"
    assert printed(app, image, look) == [
        "no archive, whatever its name is" + "me:us 4755",
        *("/etc/passwd", "me:us 4755", "/etc/passwd", "me:us 4755", "/etc/passwd"),
    ]
    for name in ("up", "through"):
        assert name in build_failure(app, from_text(tmp_path, f"FROM {small}\n{copied}ADD {name}.tar /x\n"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("RUN --mount=source=nothing,target=/x true", "'nothing' is not in the build context"),
        ("RUN --mount=type=secret,id=x,required true", "requires a secret that the build does not have"),
        ("RUN --mount=type=cache,target=/proc/x true", "nothing can be mounted at /proc/x"),
        ("RUN --mount=type=ssh true", "RUN --mount=type=ssh is not implemented"),
        ("RUN --security=insecure true", "RUN --security=insecure is not implemented"),
        ("RUN --network=host true", "RUN --network=host is not implemented"),
        ("RUN --network=nosuch true", "RUN --network=nosuch is not implemented"),
        ("RUN []", "RUN needs a command"),
        ("ONBUILD FROM x", "ONBUILD takes one instruction"),
        ("USER not:a:user", "USER 'not:a:user'"),
        ("USER nosuch\nRUN true", "no user nosuch"),
        ("COPY --from=7 /a /b", "there is no such stage"),
        ("COPY --from=ghcr.io/astral-sh/uv:latest /etc /b", "/uv and /uvx only"),
        ("COPY nothing /x", "'nothing' is not in the build context"),
        ("COPY --chown=nosuch Dockerfile /x", "no user 'nosuch'"),
        ("COPY --chmod=u+z Dockerfile /x", "octal digits or symbols"),
        ("ADD http://127.0.0.1:9/x /x", "an address of this machine"),
        ("ADD http://localhost:9/x /x", "an address of this machine"),
        ("ADD http://[::ffff:10.0.0.1]/x /x", "an address of this machine"),
        ("ADD ftp://example.com/x /x", "http:// or https://"),
        ("ADD https://example.com/r.git /x", "use RUN git clone"),
        ("ADD https://me:word@example.com/x /x", "no URL with a password"),
        ("FROM --platform=linux/s390x scratch", "for another processor"),
        ("NOSUCH thing", "NOSUCH is not a known instruction"),
        ("RUN <<END\necho", "The here-document END has no end"),
        ("ENV A=${NOT_SET:?it is needed}", "it is needed"),
        ("RUN echo one two; echo three >&2; exit 7", "ended with exit code 7. one two three"),
    ],
)
def test_what_cannot_be_built_says_so(app: modal.App, small: str, tmp_path: Path, line: str, reason: str) -> None:
    failure = build_failure(app, from_text(tmp_path, f"FROM {small}\nCOPY Dockerfile /it\n{line}\n"))
    assert reason in failure
    assert line.partition("\n")[0][:40] in failure or line.startswith(("USER", "RUN <<"))


@pytest.fixture(scope="module")
def debian(app: modal.App, tmp_path_factory: pytest.TempPathFactory) -> modal.Image:
    """The SDK's debian_slim on a root file system of its own, with some wheels."""
    wheels = tmp_path_factory.mktemp("wheels")
    for name in ("one", "two", "three", "four"):
        wheel(wheels, name, "1.0", f"WORD = {name!r}\n", scripts=f"[console_scripts]\nsay-{name} = {name}:print\n")
    wheel(wheels, "five", "2.0rc1", "WORD = 'five'\n")
    setup = 'print("the word is", os.environ["WORD"]); source = f"LENGTH = {len(os.environ[\'WORD\'])}"'
    source_archive(wheels, "secretive", "1.0", setup)
    image = modal.Image.debian_slim().add_local_dir(wheels, "/wheels", copy=True)
    return image.run_commands("echo piped | cat > /piped").build(app)


def test_every_method_for_packages_of_python_installs_them(run: Run, debian: modal.Image, tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("two==1.0\n")
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['four']\n"
    )
    image = (
        debian.pip_install("one", **HERMETIC)
        .pip_install("five", pre=True, **HERMETIC)
        .pip_install_from_requirements(str(tmp_path / "needs.txt"), **HERMETIC)
        .uv_pip_install("three~=1.0", **HERMETIC)
        .pip_install_from_pyproject(str(tmp_path / "pyproject.toml"), **HERMETIC)
        .run_commands(
            "python -m pip uninstall -y one 2>&1 | cat", "pip install --no-index -f /wheels --target /own one"
        )
    )
    code = "import two, three, four, five; print(two.WORD, three.WORD, four.WORD, five.WORD)"
    look = f"python -c '{code}'; command -v say-two; python -c 'import one' 2>&1 | tail -1; ls /own; cat /piped"
    assert run(image, "sh", "-c", look).splitlines() == [
        *("two three four five", "/opt/image/venv/bin/say-two", "ModuleNotFoundError: No module named 'one'"),
        *("bin", "one-1.0.dist-info", "one.py", "piped"),
    ]


def test_packages_of_debian_are_installed_with_their_own_scripts(
    app: modal.App, debian: modal.Image, tmp_path: Path
) -> None:
    (tmp_path / "debs").mkdir()
    script = "useradd --system --create-home operator2\nchown operator2 /home/operator2\nid > /said-by-postinst"
    debian_repository(tmp_path / "debs", "said-by-root", script)
    image = (
        debian.add_local_dir(tmp_path / "debs", "/debs", copy=True)
        .run_commands(
            "rm -rf /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] file:/debs ./' > /etc/apt/sources.list"
        )
        .apt_install("said-by-root")
    )
    look = "cut -d' ' -f1 /said-by-postinst\nstat -c '%U' /home/operator2\nsu operator2 -s /bin/sh -c 'id -un'"
    assert printed(app, image, look) == ["uid=0(root)", "operator2", "operator2"]
    missing = build_failure(app, image.apt_install("no-such-package-here"))
    assert "'RUN apt-get install -y no-such-package-here' ended with exit code 100" in missing
    assert "Unable to locate package no-such-package-here" in missing


def test_poetry_gets_what_it_needs(app: modal.App, debian: modal.Image, tmp_path: Path) -> None:
    """A stand-in for poetry says how it was called, and what it found."""
    code = "import os, sys\ndef main():\n    print('poetry', *sys.argv[1:], os.getcwd(), sorted(os.listdir()))\n"
    made = wheel(tmp_path, "poetry", "9.9", code, scripts="[console_scripts]\npoetry = poetry:main\n")
    (tmp_path / "pyproject.toml").write_text("[tool.poetry]\n")
    (tmp_path / "poetry.lock").write_text("")
    image = debian.add_local_file(made, "/stand-in/", copy=True).pip_install(
        "poetry", find_links="/stand-in", extra_options="--no-index"
    )
    image = image.poetry_install_from_file(str(tmp_path / "pyproject.toml"), poetry_version=None, with_=["dev"])
    log = built(app, image)
    found = "/tmp/poetry ['poetry.lock', 'pyproject.toml']"  # inside the image
    assert f"poetry config virtualenvs.create false {found}\n" in log
    assert f"poetry install --no-root --with dev --compile {found}\n" in log


def test_an_image_may_begin_with_nothing(app: modal.App, small: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the context")
    image = from_text(
        tmp_path,
        f"""FROM scratch
COPY file /of/it
COPY --from={small} / /
ADD file /of/
RUN ["cat", "/of/it", "/of/file"]
""",
    )
    assert "of the contextof the context\n" in built(app, image)
    log = printed(app, modal.Image.from_scratch().dockerfile_commands(f"COPY --from={small} / /"), "readlink /usr")
    assert log == ["."]


def test_a_project_is_synced_into_an_environment_of_its_own(run: Run, debian: modal.Image, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['three']\n"
    )
    image = debian.uv_sync(str(tmp_path), frozen=False, extra_options="--no-index --find-links /wheels")
    assert run(image, "python", "-c", "import sys, three; print(sys.prefix, three.WORD)") == "/.uv/.venv three\n"


def test_secrets_reach_steps_and_nothing_that_is_kept(app: modal.App, debian: modal.Image, state: object) -> None:
    secret = modal.Secret.from_dict({"WORD": "open-sesame-to-nobody"})
    image = debian.pip_install("secretive", secrets=[secret], find_links="/wheels", extra_options="--no-index -v")
    image = image.run_commands('echo "it is $WORD, of ${#WORD}"; test -n "$WORD"', secrets=[secret])
    log = built(app, image)
    assert "the word is ***" in log
    assert "it is ***, of 21" in log
    assert "WORD=\n" in built(app, image.run_commands('echo "WORD=$WORD"'))
    failure = build_failure(app, image.run_commands('echo "$WORD" >&2; exit 3', secrets=[secret]))
    assert "exit code 3. ***" in failure
    assert "open-sesame" not in log + failure


@pytest.mark.parametrize("rooted", [True, False])
def test_the_environment_of_an_image_is_not_that_of_the_programs_that_start_it(
    modal_cli: Cli, tmp_path: Path, rooted: bool
) -> None:
    """With LD_PRELOAD an image would load its own library into them, outside: each that has it complains once."""
    source = tmp_path / "preloading.py"
    step = '.run_commands("true | true")' if rooted else ""
    source.write_text(f"""
import modal
image = modal.Image.debian_slim(){step}.env({{"LD_PRELOAD": "/nowhere.so", "SAID": "inside"}})
app = modal.App("preloading", image=image)

@app.function()
def look():
    import os
    return os.environ["SAID"]

@app.local_entrypoint()
def main():
    print("LOOKED", look.remote())
""")
    said = modal_cli("run", str(source))
    assert "LOOKED inside" in said
    assert said.count("object '/nowhere.so' from LD_PRELOAD cannot be preloaded") <= 1


def test_nothing_of_this_machine_is_left_in_a_layer(app: modal.App, small: str) -> None:
    """Names, settings and tools are mounted while a step runs; no file shows afterwards where they were."""
    image = modal.Image.from_registry(small).dockerfile_commands("USER me", "RUN id", "USER root", "RUN touch /made")
    image = image.dockerfile_commands(f"FROM {small} AS bare", "RUN id", "FROM base", "COPY --from=bare / /bare/")
    copied = "find /bare ! -path /bare/srv"  # which the base's WORKDIR makes
    before = printed(app, modal.Image.from_registry(small).dockerfile_commands(f"COPY --from={small} / /bare"), copied)
    after = printed(app, image, copied)
    assert len(before) > 20
    assert sorted(after) == sorted(before)
    mounted = printed(app, image, "cat /etc/hosts > /dev/null; test -w /etc/hosts || echo mounted; ls -d /__modal")
    assert mounted == ["mounted", "/__modal"]
