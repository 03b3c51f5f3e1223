"""`RUN --mount`: what is mounted is there while the step runs, and in no layer, log or key."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standard.local_cloud.images.conftest import FROM_PYTHON, Service
from tests.standard.local_cloud.images.test_rooted_builds import Built, built
from tests.support.registry import Registry
from workbench.local_cloud.images.images import BUILT, FAILED, Images
from workbench.local_cloud.rootfs.layers import Layers

MAX_BYTES = 10_000
SECRET = "open-sesame-and-close"


@pytest.fixture
def small(served: Registry) -> str:
    return f"FROM {served.name('small:1')}"


def everything(images: Images, built: Built) -> str:
    """All of what a store's layers hold, as text, and their names."""
    found = []
    for key in built.layers:
        layer = images.layers.store / "layers" / key
        found += [str(path.relative_to(layer)) for path in layer.rglob("*")]
        found += [
            path.read_text(errors="replace")
            for path in layer.rglob("*")
            if path.is_file() and path.stat().st_size < 9999
        ]
    return "\n".join(found)


async def test_files_of_the_context_a_stage_and_an_image_are_bound(
    service: Service, images: Images, served: Registry, small: str
) -> None:
    service.mounts = {"mo-1": {"/a/b": b"of the context\n", "/c": b"one file\n"}}
    made = await built(
        images,
        f"{small} AS first",
        "RUN mkdir /made && echo of the stage > /made/it",
        small,
        "WORKDIR /site",
        "RUN --mount=target=/all --mount=source=a,target=here --mount=type=bind,src=/c,dst=/one cat /all/c here/b /one",
        "RUN --mount=from=first,source=/made,target=/stage cat /stage/it",
        f"RUN --mount=from={served.name('small:1')},target=/image ls /image/bin/sh",
        "RUN ls -d /all /site/here /one /stage /image 2>&1 | grep -c 'No such file'",
        context_mount_id="mo-1",
    )
    assert made.image.state == BUILT, made.image.failure
    lines = [line for line in made.lines if not line.startswith(("FROM", "RUN", "WORKDIR", "it is", "The "))]
    assert lines[-6:] == ["one file\n", "of the context\n", "one file\n", "of the stage\n", "/image/bin/sh\n", "5\n"]


async def test_a_bound_file_that_changes_makes_the_step_anew_and_others_do_not(
    service: Service, images: Images, small: str
) -> None:
    service.mounts = {"mo-1": {"/a": b"1", "/b": b"1"}, "mo-2": {"/a": b"1", "/b": b"2"}, "mo-3": {"/a": b"3"}}
    steps = [small, "RUN --mount=source=a,target=/a cat /a > /copy"]
    first = await built(images, *steps, context_mount_id="mo-1")
    assert (await built(images, *steps, context_mount_id="mo-2")).layers == first.layers
    assert (await built(images, *steps, context_mount_id="mo-3")).layers != first.layers


async def test_what_is_written_to_a_mount_is_in_no_layer_and_not_in_the_context(
    service: Service, images: Images, small: str
) -> None:
    service.mounts = {"mo-1": {"/a": b"as it was\n"}}
    made = await built(
        images,
        FROM_PYTHON,
        "RUN echo piped | cat",
        "RUN --mount=target=/all,rw echo written-1 > /all/a && cat /all/a",
        "RUN --mount=target=/all cat /all/a; echo x > /all/a || echo refused",
        "RUN --mount=type=tmpfs,target=/ram,size=1m echo written-2 > /ram/x; head -c 2M /dev/zero > /ram/y || :",
        "RUN --mount=type=cache,target=/c,uid=7,gid=8,mode=0750 echo written-3 > /c/x; stat -c '%u %g %a' /c",
        "RUN --mount=type=cache,target=/c cat /c/x",
        "RUN --mount=type=cache,target=/c,ro echo x > /c/y || echo refused",
        "RUN --mount=type=cache,target=/c,id=another ls /c | wc -l",
        context_mount_id="mo-1",
    )
    assert made.image.state == BUILT, made.image.failure
    text = "".join(line for line in made.lines if not line.startswith("RUN"))
    for said in ("written-1\nas it was\n", "refused\n", "No space left", "7 8 750\nwritten-3\n", "refused\n0\n"):
        assert said in text
    assert "written-" not in everything(images, made)


async def test_a_cache_lasts_for_its_build_and_no_longer(images: Images, small: str) -> None:
    """So that no build finds what another one has left there."""
    write = "RUN --mount=type=cache,target=/cache,id=one ls /cache; echo x > /cache/mine"
    made = await built(images, small, write, "RUN --mount=type=cache,target=/other,id=one ls /other")
    assert made.lines[-1] == "mine\n"
    assert "mine\n" not in (await built(images, small, f"{write} # again")).lines
    assert list((images.layers.store / "live").iterdir()) == []


@pytest.mark.parametrize("where", ["", ",target=/etc/token", ",env=TOKEN", ",env=TOKEN,target=/both", ",uid=1000"])
async def test_a_secret_is_there_and_nowhere_else(service: Service, images: Images, small: str, where: str) -> None:
    service.secrets = {"st-1": {"word": SECRET}}
    steps = [
        small,
        f"RUN --mount=type=secret,id=word{where} cat /run/secrets/word /etc/token /both; echo $TOKEN",
        "RUN ls /run/secrets /etc/token /both 2>&1 | grep -c 'No such'",
    ]
    made = await built(images, *steps, secret_ids=["st-1"])
    assert made.image.state == BUILT, made.image.failure
    assert "***" in "".join(made.lines)
    assert made.lines[-1] == "3\n"
    assert SECRET not in "".join(made.lines) + everything(images, made)


async def test_the_name_of_a_layer_does_not_tell_what_a_secret_is(
    service: Service, images: Images, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs inside see the names of their layers: who guesses a short secret must not find it confirmed there."""
    service.secrets = {"st-1": {"word": "1234567"}}
    steps = [small, "RUN echo done"]
    first = await built(images, *steps, secret_ids=["st-1"])
    service.secrets = {"st-1": {"word": "7654321"}}
    other = await built(images, *steps, secret_ids=["st-1"])
    assert first.layers[0] != other.layers[0]
    elsewhere = service.root.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(images.layers, "private", Layers(elsewhere).private)
    again = await built(images, *steps, secret_ids=["st-1"], force=True)
    assert again.image.state == BUILT
    assert Layers(elsewhere).private != Layers(images.layers.store).private
    assert Layers(images.layers.store).private == Layers(images.layers.store).private
    assert (images.layers.store / "private").stat().st_mode & 0o077 == 0


async def test_a_missing_secret_is_no_file_unless_it_is_required(images: Images, small: str) -> None:
    made = await built(images, small, "RUN --mount=type=secret,id=word ls /run/secrets/word 2>&1; true")
    assert "No such file" in made.lines[-1]
    failed = await built(images, small, "RUN echo begun", "RUN --mount=type=secret,id=word,required=true true")
    assert "secrets=[modal.Secret.from_dict" in failed.image.failure
    assert "begun\n" not in failed.lines  # before anything is built


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("type=ssh", "no SSH agent"),
        ("type=nosuch,target=/x", "type=nosuch is not known"),
        ("type=bind", "needs a target"),
        ("target=/", "needs a target other than"),
        ("target=/a/..", "needs a target other than"),
        ("target=../..", "needs a target other than"),
        ("target=/proc/1", "nothing can be mounted at /proc/1"),
        ("target=/a/../dev/null", "nothing can be mounted at /dev/null"),
        ("target=//dev", "nothing can be mounted at /dev"),
        ("target=/__modal/tools", "nothing can be mounted at /__modal/tools"),
        ("target=/x,source=../y", "'..' in it"),
        ("target=/x,source=a/../../y", "'..' in it"),
        ("target=/x,colour=blue", "no option 'colour'"),
        ("type=tmpfs,target=/x,from=first", "no option 'from'"),
        ("type=tmpfs,target=/x,size=1t", "size is a number of bytes"),
        ("type=tmpfs,target=/x,size=99999999999999", "size is a number of bytes"),
        ("type=cache,target=/x,mode=9", "mode is a number"),
        ("type=cache,target=/x,uid=-1", "uid is a number"),
        ("type=cache,target=/x,gid=65536", "gid is a number"),
        ("type=cache,target=/x,sharing=none", "shared, private or locked"),
        ("type=cache,target=/x,ro=perhaps", "ro is true or false"),
        ("type=secret", "needs an id"),
        ("type=secret,id=x,env=1X", "the name of a variable"),
    ],
)
async def test_what_cannot_be_mounted_is_refused_before_anything_is_built(
    images: Images, small: str, mount: str, reason: str
) -> None:
    failed = await built(images, small, "RUN echo begun", f"RUN --mount={mount} true")
    assert (failed.image.state, "begun\n" in failed.lines) == (FAILED, False)
    assert reason in failed.image.failure
    assert f"RUN --mount={mount}"[:60] in failed.image.failure


async def test_links_lead_nowhere_else(service: Service, images: Images, small: str) -> None:
    """Neither those of a stage that is bound, nor those at a target: both are of programs that nobody trusts."""
    made = await built(
        images,
        f"{small} AS bad",
        "RUN ln -s /etc/hostname /file; ln -s / /root-of; mkdir /in; ln -s ../../../../etc /in/up",
        small,
        "RUN ln -s /proc /p; ln -s /dev/shm /d; ln -s /srv/../srv /s; mkdir -p /srv",
        "RUN --mount=from=bad,source=/in,target=/in ls /in/up/shadow 2>&1 || true",
        "RUN --mount=type=tmpfs,target=/s/x echo x > /srv/x/y && cat /s/x/y",
    )
    assert made.image.state == BUILT, made.image.failure
    assert made.lines[-1] == "x\n"
    for target in ("/p/1", "/d/x"):
        failed = await built(
            images, small, "RUN ln -s /proc /p; ln -s /dev/shm /d", f"RUN --mount=type=tmpfs,target={target} true"
        )
        assert re.search(r"leads into /(proc|dev)", failed.image.failure), failed.image.failure
    for source in ("/file", "/root-of"):
        bound = await built(
            images,
            f"{small} AS bad",
            "RUN ln -s /etc/hostname /file; ln -s / /root-of; echo marked > /marked",
            small,
            f"RUN --mount=from=bad,source={source},target=/x ls /x/marked 2>/dev/null || wc -c < /x",
        )
        assert bound.image.state in (BUILT, FAILED)
        assert "workbench" not in "".join(bound.lines)


async def test_a_target_that_cannot_be_one_says_so(service: Service, images: Images, small: str) -> None:
    service.mounts = {"mo-1": {"/file": b"x", "/directory/x": b"x"}}
    for source, target in (("file", "/etc"), ("directory", "/etc/passwd")):
        failed = await built(
            images, small, f"RUN --mount=source={source},target={target} true", context_mount_id="mo-1"
        )
        assert failed.image.state == FAILED
        assert re.search(r"is not a (file|directory) in the image", failed.image.failure), failed.image.failure


async def test_a_hundred_mounts_are_made_and_not_one_more(images: Images, small: str) -> None:
    mounts = " ".join(f"--mount=type=tmpfs,target=/m/{number},size=1m" for number in range(100))
    made = await built(images, small, f"RUN {mounts} ls /m")
    assert len([line for line in made.lines if line.strip().isdecimal()]) == 100, made.image.failure
    failed = await built(images, small, f"RUN {mounts} --mount=type=tmpfs,target=/more true")
    assert "at most 100 mounts" in failed.image.failure


async def test_mounts_lie_in_one_another(service: Service, images: Images, small: str) -> None:
    service.mounts = {"mo-1": {"/src/main": b"x"}}
    made = await built(
        images,
        small,
        "RUN --mount=source=src,target=/src --mount=type=cache,target=/src/made touch /src/made/it && ls /src",
        context_mount_id="mo-1",
    )
    assert made.image.state == BUILT, made.image.failure
    assert made.lines[-2:] == ["made\n", "main\n"]
    assert list((images.layers.store / "live").iterdir()) == []


def written(images: Images, built: Built) -> list[str]:
    """The paths in the topmost layer of an image."""
    layer = images.layers.store / "layers" / built.layers[0]
    return sorted(str(path.relative_to(layer)) for path in layer.rglob("*"))


async def test_places_of_mounts_behind_links_are_in_no_layer(service: Service, images: Images, small: str) -> None:
    """Also where the image has a link in the place of a name server's file; what a step has put there stays."""
    service.secrets = {"st-1": {"word": SECRET}}
    links = "RUN mkdir /real /dns && ln -s /real /link && ln -s /made/resolv.conf /dns/resolv.conf"
    steps = [f"{small} AS links", links, "FROM links", "COPY --from=links /dns /etc"]
    mounts = "--mount=type=secret,id=word,target=/link/a/b/word --mount=type=tmpfs,target=/link/c/d"
    look = "cat /real/a/b/word > /dev/null && cat /etc/resolv.conf > /dev/null"
    empty = await built(images, *steps, f"RUN {mounts} {look}", secret_ids=["st-1"])
    assert empty.image.state == BUILT, empty.image.failure
    assert written(images, empty) == ["real"]
    kept = await built(images, *steps, f"RUN {mounts} {look} && touch /real/a/mine", secret_ids=["st-1"])
    assert written(images, kept) == ["real", "real/a", "real/a/mine"]


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of this machine in which everybody may remove what is there."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        Path(name, "b").mkdir()
        yield Path(name)


async def test_no_link_of_a_step_is_followed_when_places_are_removed(images: Images, small: str, outside: Path) -> None:
    made = await built(
        images,
        small,
        "RUN mkdir /real && ln -s /real/new /link",
        f"RUN --mount=type=tmpfs,target=/link/b mv /real/new /real/gone && ln -s {outside} /real/new",
    )
    assert made.image.state == BUILT, made.image.failure
    assert os.listdir(outside) == ["b"]
    assert written(images, made) == ["real", "real/gone", "real/gone/b", "real/new"]
