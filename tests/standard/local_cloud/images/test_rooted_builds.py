"""Layers with a root file system of their own: found again, built anew, cut off, and closed to the machine outside."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modal_proto import api_pb2

from tests.standard.local_cloud.images.conftest import Service
from tests.support.processes import naming
from tests.support.registry import Registry
from tests.support.small_image import small_image
from workbench.local_cloud.base import host
from workbench.local_cloud.images import downloads
from workbench.local_cloud.images import images as module
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.images import BUILDING, BUILT, FAILED, Image, Images
from workbench.local_cloud.images.pulls import MIRRORS_VARIABLE
from workbench.local_cloud.rootfs import layers


@pytest.fixture
async def images(service: Service) -> AsyncIterator[Images]:
    images = service.open()
    yield images
    await images.aclose()


class Built:
    """One image and its log."""

    def __init__(self, image: Image, lines: list[str]) -> None:
        self.image = image
        self.layers = image.config.layers
        self.lines = lines

    @property
    def found(self) -> int:
        """How many layers had been built before."""
        return self.lines.count("it is there already\n")


async def built(images: Images, *commands: str, base: str = "", force: bool = False, **more: object) -> Built:
    definition = api_pb2.Image(
        dockerfile_commands=["FROM base" if base else "", *commands],
        base_images=[api_pb2.BaseImage(docker_tag="base", image_id=base)] if base else [],
        **more,  # type: ignore[arg-type]  # fields by their names
    )
    image_id = await images.get_or_create(definition, force_build=force)
    lines: list[str] = []
    while images.get(image_id).state == BUILDING:
        async for found in images.follow(image_id, after=len(lines), timeout_s=60):
            lines += [line.text for line in found]
    async for found in images.follow(image_id, after=len(lines), timeout_s=1):
        lines += [line.text for line in found]
    return Built(images.get(image_id), lines)


async def test_only_what_has_changed_is_built_again(service: Service, images: Images, served: Registry) -> None:
    steps = [f"FROM {served.name('small:1')}", "COPY a /", "RUN echo one > /one", "COPY . /all/", "RUN cat /all/b"]
    service.mounts = {"mo-1": {"/a": b"a", "/b": b"b\n"}, "mo-2": {"/a": b"a", "/b": b"B\n"}, "mo-3": {"/a": b"A"}}
    first = await built(images, *steps, context_mount_id="mo-1")
    assert (first.image.state, first.found, first.lines[-1]) == (BUILT, 0, "b\n")
    same = await built(images, *steps, context_mount_id="mo-1")
    assert same.image.image_id == first.image.image_id
    later = await built(images, *steps, context_mount_id="mo-2")
    assert (later.found, later.lines[-1], later.layers[2:]) == (2, "B\n", first.layers[2:])
    longer = await built(images, *steps, "RUN true", context_mount_id="mo-1")
    assert (longer.found, longer.layers[1:]) == (4, first.layers)
    other = await built(images, *steps, context_mount_id="mo-3")
    assert (other.found, other.image.state) == (0, FAILED)
    forced = await built(images, *steps, context_mount_id="mo-1", force=True)
    assert (forced.found, forced.layers[4:]) == (0, first.layers[4:])
    assert not set(forced.layers[:4]) & set(first.layers)


async def test_a_failure_keeps_what_was_built_before_it_and_nothing_half(
    service: Service, images: Images, served: Registry
) -> None:
    steps = [f"FROM {served.name('small:1')}", "RUN echo whole > /whole", "RUN echo half > /half; echo why >&2; exit 9"]
    failed = await built(images, *steps)
    assert failed.image.state == FAILED
    assert "exit code 9. why" in failed.image.failure
    assert "echo half" in failed.image.failure
    assert len(images.layers.keys()) == 2  # what is mounted meanwhile has its place in none
    assert list((images.layers.store / "live").iterdir()) == []
    assert list(service.root.iterdir()) == []
    assert (await built(images, *steps[:2], "RUN cat /whole")).lines[-1] == "whole\n"


async def test_a_stop_ends_the_programs_of_a_step(service: Service, images: Images, served: Registry) -> None:
    mark = "31415.926"
    sleeping = asyncio.create_task(
        built(images, f"FROM {served.name('small:1')}", f"RUN (sleep {mark} &); sleep {mark}")
    )
    deadline = asyncio.get_running_loop().time() + 60
    while not any(f"sleep {mark}" in line.replace("\0", " ") and "bwrap" not in line for line in naming(mark)):
        assert asyncio.get_running_loop().time() < deadline, sleeping
        await asyncio.sleep(0.05)
    await images.aclose()
    stopped = await sleeping
    assert (stopped.image.state, "interrupted" in stopped.image.failure) == (FAILED, True)
    while naming(mark):
        assert asyncio.get_running_loop().time() < deadline, naming(mark)
        await asyncio.sleep(0.02)
    assert list((images.layers.store / "live").iterdir()) == []


async def test_a_build_that_nobody_waits_for_any_more_is_ended(
    service: Service, images: Images, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a client is stopped with Ctrl-C; somebody else who waits for the same build keeps it."""
    monkeypatch.setattr(module, "ABANDONED_S", 0.1)
    mark = "27182.818"
    waiting = [asyncio.create_task(built(images, f"FROM {served.name('small:1')}", f"RUN sleep {mark}")) for _ in "12"]
    deadline = asyncio.get_running_loop().time() + 60
    while not any(f"sleep {mark}" in line and "bwrap" not in line for line in naming(mark)):
        assert asyncio.get_running_loop().time() < deadline, waiting
        await asyncio.sleep(0.05)
    waiting[0].cancel()
    await asyncio.sleep(0.5)
    assert naming(mark)
    waiting[1].cancel()
    while naming(mark):
        assert asyncio.get_running_loop().time() < deadline, naming(mark)
        await asyncio.sleep(0.02)
    (image_id,) = (row["image_id"] for row in service.database.all("SELECT image_id FROM image_layers"))
    async for _ in images.follow(image_id, after=0, timeout_s=60):
        pass
    assert "nobody waited for it" in images.get(image_id).failure


async def test_steps_have_the_image_s_environment_and_an_empty_input(images: Images, served: Registry) -> None:
    """The programs that start a step do not have it: an image could make them load its own libraries."""
    preloaded = await built(
        images,
        f"FROM {served.name('small:1')}",
        "ARG GIVEN",
        "ENV A=$GIVEN LD_PRELOAD=/nowhere.so PYTHONHOME=/nowhere BASH_ENV=/nowhere",
        'RUN ["/bin/true"]',
        'RUN ["env", "-u", "LD_PRELOAD", "cat"]',
        "ENV LD_PRELOAD=",
        "RUN env",
        build_args={"GIVEN": "1", "OTHER": "2"},
    )
    assert preloaded.image.state == BUILT, preloaded.image.failure
    assert len([line for line in preloaded.lines if "/nowhere.so" in line and "ld.so" in line]) == 2
    env = preloaded.lines[preloaded.lines.index("RUN env\n") + 1 :]
    names = {line.partition("=")[0] for line in env}
    assert {"A=1\n", "GIVEN=1\n", "HOME=/root\n", "PATH=/bin\n"} <= set(env)
    assert names <= {"A", "GIVEN", "HOME", "PATH", "LD_PRELOAD", "PYTHONHOME", "BASH_ENV", "PWD", "SHLVL", "_"} | {
        name
        for name in names
        if name.startswith(("UV_", "PIP_", "NPM_", "npm_", "SSL_", "REQUESTS_", "CURL_", "NODE_"))
    } | {name for name in names if name.lower().endswith("_proxy")}


@pytest.mark.parametrize(
    ("lines", "entrypoint", "cmd"),
    [
        ([], ["entry"], ["base"]),
        (['ENTRYPOINT ["x"]'], ["x"], []),
        (["CMD c d", 'ENTRYPOINT ["x"]'], ["x"], ["/bin/sh", "-c", "c d"]),
        (['ENTRYPOINT ["x"]', "CMD c"], ["x"], ["/bin/sh", "-c", "c"]),
        (['CMD ["y", "z"]'], ["entry"], ["y", "z"]),
        (["CMD []"], ["entry"], []),
        (["ENTRYPOINT []"], [], []),
        (
            ['SHELL ["/bin/bash", "-c"]', "CMD a $B", "ENTRYPOINT c"],
            ["/bin/bash", "-c", "c"],
            ["/bin/bash", "-c", "a $B"],
        ),
        (['CMD ["broken'], ["entry"], ["/bin/sh", "-c", '["broken']),
    ],
)
async def test_entrypoints_and_commands_follow_their_base(
    images: Images, served: Registry, lines: list[str], entrypoint: list[str], cmd: list[str]
) -> None:
    served.push("entry:1", small_image({"Entrypoint": ["entry"], "Cmd": ["base"]}, programs=["true"]))
    made = await built(images, f"FROM {served.name('entry:1')}", *lines)
    assert (list(made.image.config.entrypoint), list(made.image.config.cmd)) == (entrypoint, cmd)
    later = await built(images, "ENV A=b", base=made.image.image_id)
    assert (list(later.image.config.entrypoint), list(later.image.config.cmd)) == (entrypoint, cmd)
    assert later.layers == made.layers


async def test_arguments_have_their_scopes(images: Images, served: Registry) -> None:
    made = await built(
        images,
        "ARG NAME=small EARLY=1",
        "ARG TAG=${NAME:+1}",
        f"FROM {served.name('${NAME}:${TAG}')} AS first",
        "ARG EARLY LATE=2 TARGETARCH",
        "ENV SEEN=$EARLY-$LATE-${TARGETARCH:+arch}-$TARGETOS-$NAME",
        "ENV LATE=env",
        "ARG LATE=3",
        "RUN echo $SEEN $LATE $http_proxy $GIVEN",
        "FROM first",
        "ARG GIVEN",
        "RUN echo $SEEN $LATE $EARLY $GIVEN",
        build_args={"http_proxy": "proxied", "GIVEN": "given", "EARLY": "one"},
    )
    assert [line for line in made.lines if line.startswith("one-")] == [
        "one-2-arch-- env proxied\n",
        "one-2-arch-- env given\n",
    ]


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES"])
async def test_what_an_image_tells_the_loader_is_for_its_own_programs(
    images: Images, served: Registry, name: str
) -> None:
    """The host's programs that start a step would look for libraries which are made for others."""
    value, complaints = "/no/such/library.so", []
    for user, uid in (("root", "0"), ("1000", "1000")):
        script = f"RUN echo ${name} && id -u"
        made = await built(images, f"FROM {served.name('small:1')}", f"ENV {name}={value}", f"USER {user}", script)
        assert made.image.state == BUILT, made.lines
        assert {f"{value}\n", f"{uid}\n"} <= set(made.lines)
        complaints.append(len([line for line in made.lines if "ld.so" in line]))
    assert complaints[0] == complaints[1]


async def test_micromamba_s_image_is_pulled_and_its_shell_and_user_are_used(
    images: Images, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `Image.micromamba` sends; the programs are stand-ins that say how they were called."""
    shell = '#!/bin/bash\necho "activated $MAMBA_DOCKERFILE_ACTIVATE"\nexec bash -c "$@"\n'
    program = '#!/bin/sh\necho "micromamba $* by $(id -u)"\n'
    image = small_image(
        {"User": "57439", "Env": ["PATH=/tmp:/bin"]},
        files={"tmp/_dockerfile_shell.sh": shell, "tmp/micromamba": program},
    )
    served.push("mambaorg/micromamba:2", image)
    monkeypatch.setenv(MIRRORS_VARIABLE, f"docker.io={served.address}")
    made = await built(
        images,
        "FROM mambaorg/micromamba:2",
        "USER root",
        "RUN chmod 755 /tmp/_dockerfile_shell.sh /tmp/micromamba",
        "USER 57439",
        'SHELL ["/tmp/_dockerfile_shell.sh"]',
        "ENV MAMBA_DOCKERFILE_ACTIVATE=1",
        "RUN micromamba install -n base -y python=3.11 pip -c conda-forge",
    )
    assert made.lines[-2:] == [
        "activated 1\n",
        "micromamba install -n base -y python=3.11 pip -c conda-forge by 57439\n",
    ]
    further = await built(images, "RUN micromamba install x --yes", base=made.image.image_id)
    assert further.lines[-1] == "micromamba install x --yes by 57439\n"


async def test_uv_comes_from_its_own_image_where_this_machine_s_does_not_run(
    images: Images, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.push("astral-sh/uv:latest", small_image(programs=["cat"], files={"uv": "#!/bin/sh\necho the other uv\n"}))
    monkeypatch.setenv(MIRRORS_VARIABLE, f"ghcr.io={served.address}")
    copy = "COPY --chmod=755 --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv"
    other = await built(images, f"FROM {served.name('small:1')}", copy, "RUN /.uv/uv")
    assert other.lines[-1] == "the other uv\n"
    served.push("with-libraries:1", small_image(libraries_of=[str(host.uv())]))
    own = await built(images, f"FROM {served.name('with-libraries:1')}", copy, "RUN /.uv/uv --version")
    assert own.lines[-1].startswith("uv ")


async def test_a_python_that_is_not_installed_is_pulled(
    images: Images, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRRORS_VARIABLE, f"docker.io={served.address}")
    failed = await built(images, "FROM python:3.1-slim-bookworm", "RUN python --version")
    assert "uv python install 3.1`" in failed.image.failure
    program = "#!/bin/sh\necho Python 3.1\n"
    served.push("library/python:3.1-slim-bookworm", small_image(files={"bin/python": program}))
    made = await built(images, "FROM python:3.1-slim-bookworm", "RUN sh /bin/python --version")
    assert made.lines[-1] == "Python 3.1\n"


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/away"))
            self.end_headers()
            return
        self.send_response(404 if "missing" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"from the network")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_a_step_without_the_network_has_one_of_its_own(images: Images, served: Registry) -> None:
    look = "readlink /proc/self/ns/net && cat /proc/net/dev"
    made = await built(images, f"FROM {served.name('small:1')}", f"RUN --network=none {look}", f"RUN {look}")
    assert made.image.state == BUILT, made.image.failure
    _, alone, other = "".join(made.lines).split("RUN ")
    here = str(await asyncio.to_thread(Path("/proc/self/ns/net").readlink))
    assert here in other
    assert here not in alone
    assert re.findall(r"(\S+):\s+\d", alone) == ["lo"]


async def test_modes_are_given_in_digits_and_in_symbols(service: Service, images: Images, served: Registry) -> None:
    """Symbols leave a directory open, and what runs a program, where digits make all files alike."""
    service.mounts = {"mo-1": {"/tree/d/plain": b"1"}}
    made = await built(
        images,
        f"FROM {served.name('small:1')} AS first",
        "RUN mkdir -p /own/d && echo 1 > /own/d/plain && echo 2 > /own/d/tool && chmod 700 /own/d/tool /own/d",
        f"FROM {served.name('small:1')}",
        "COPY --chmod=u=rwX,go=rX --from=first /own /own",
        "COPY --chmod=g=u,o= tree /tree",
        "COPY --chmod=640 tree/d/plain /plain",
        "RUN stat -c '%n %a' /own/d /own/d/* /tree/d /tree/d/plain /plain",
        context_mount_id="mo-1",
    )
    assert made.image.state == BUILT, made.image.failure
    found = dict(line.split() for line in made.lines[-6:])
    assert found == {
        "/own/d": "755",
        "/own/d/plain": "644",
        "/own/d/tool": "755",
        "/tree/d": "770",
        "/tree/d/plain": "660",
        "/plain": "640",
    }


async def test_add_takes_files_of_the_network(
    images: Images, served: Registry, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(downloads.PRIVATE_VARIABLE, "1")
    base = f"FROM {served.name('small:1')}"
    made = await built(
        images,
        base,
        f"ADD {site}/away/a%20b.txt?c=d /into/",
        f"ADD --chown=me:us --chmod=644 {site}/x /named",
        f"ADD --chmod=a+x {site}/x /ready",
        "RUN stat -c '%n %U:%G %a' /into/* /named /ready && cat /named",
    )
    assert made.image.state == BUILT, made.image.failure
    modes = ["/into/a b.txt root:root 600\n", "/named me:us 644\n", "/ready root:root 711\n"]
    assert made.lines[-4:] == [*modes, "from the network\n"]
    for line, reason in (
        (f"ADD --checksum=sha256:{'0' * 64} {site}/x /x", "not the one that --checksum names"),
        (f"ADD {site}/missing /x", "answers with the status 404"),
        (f"ADD {site}/ /x/", "has no file's name"),
    ):
        failed = await built(images, base, line)
        assert reason in failed.image.failure


async def test_downloads_are_bounded_and_never_come_from_this_machine(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    named = site.replace("127.0.0.1", socket.gethostname())
    for number, url in enumerate(
        (f"{site}/x", named, site.replace("127.0.0.1", "2130706433"), "http://[fe80::1%25lo]/")
    ):
        with pytest.raises((RefusedError, BuildFailedError)) as caught:
            await downloads.download(f"{url}/x", tmp_path / str(number))
        assert "of this machine or its own network" in str(caught.value)
    monkeypatch.setenv(downloads.PRIVATE_VARIABLE, "1")
    with pytest.raises(BuildFailedError, match="at most 3 bytes"):
        await downloads.download(f"{site}/x", tmp_path / "large", most=3)
    with pytest.raises(BuildFailedError, match="redirected more than"):
        await downloads.download(f"{site}{'/away' * 9}/x", tmp_path / "around")


async def test_layers_that_are_many_become_one_that_shows_the_same(
    images: Images, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes no more than 500, and each costs a little."""
    steps = [
        "RUN mkdir /d && echo 1 > /d/one && ln -s one /d/link && echo gone > /d/gone",
        "RUN rm /d/gone && echo 2 > /d/two && chmod 4750 /d/two && ln /d/two /d/same",
        "RUN chmod 2711 /d && mkdir -p /e/f && echo 3 > /e/f/g",
        "RUN rm -r /e && mkdir /e",
        "RUN ls -ldn /d && ls -ln /d /e && cat /d/link",
    ]
    many = await built(images, f"FROM {served.name('small:1')}", *steps)
    monkeypatch.setattr(layers, "MAX_LAYERS", 3)
    few = await built(images, f"FROM {served.name('small:1')}", "ENV few=1", *steps)
    assert (few.image.state, many.image.state) == (BUILT, BUILT)
    assert len(few.layers) <= 3 < len(many.layers)
    said = [[line for line in one.lines[-9:] if not line.startswith(("RUN", "total"))] for one in (few, many)]
    assert said[0] == said[1]
