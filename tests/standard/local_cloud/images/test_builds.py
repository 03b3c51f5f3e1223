"""Builds end whole or not at all: done once, cut off without a trace, retried, and bounded in time."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.standard.local_cloud.images.conftest import FROM_PYTHON, Service, layer, made
from tests.support.packages import source_archive, wheel
from tests.support.processes import naming
from workbench.local_cloud.apps.app_logs import Wanted
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.images import build_sandbox
from workbench.local_cloud.images.images import BUILT, FAILED, Images

INSTALL = "RUN pip install --no-index --find-links /wheels"
ENDLESS = "import time; time.sleep(1000)"


def mounted(service: Service, *packages: Path) -> str:
    """A mount that holds packages."""
    service.mounts["mo-1"] = {f"/wheels/{path.name}": path.read_bytes() for path in packages}
    return "mo-1"


def left_behind(service: Service) -> list[str]:
    """Whatever of a build is still there: scratch directories, and processes that have to do with them."""
    found = [path.name for path in service.root.glob("tmp-*")]
    return found + naming(str(service.root))


async def nothing_is_left(service: Service) -> None:
    """What was killed is gone as soon as the kernel has taken it apart, which is a moment after its parent's end."""
    deadline = asyncio.get_running_loop().time() + 10
    while left := left_behind(service):
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.02)


async def until_it_builds(service: Service, images: Images, image_id: str) -> None:
    """Return when the installer of a build runs."""
    deadline = asyncio.get_running_loop().time() + 60
    while not any("pip install" in line or "pip' 'install" in line for line in left_behind(service)):
        assert asyncio.get_running_loop().time() < deadline, images.get(image_id)
        await asyncio.sleep(0.02)


async def test_one_layer_is_built_once_for_all_who_ask(service: Service, images: Images, tmp_path: Path) -> None:
    mount = mounted(service, wheel(tmp_path, "shared", "1.0", ""))
    commands = ("COPY . /", f"{INSTALL} shared")
    asked = await asyncio.gather(*(made(images, *commands, mount=mount) for _ in range(5)))
    assert {image.state for image in asked} == {BUILT}
    assert len({image.image_id for image in asked}) == 1
    assert [path.name for path in service.root.iterdir()] == [asked[0].image_id]


async def test_equal_contents_are_one_layer_whatever_their_ids(service: Service, images: Images) -> None:
    """The SDK makes new secrets and mounts at every deployment."""
    service.mounts = {"mo-1": {"/a": b"1"}, "mo-2": {"/a": b"1"}, "mo-3": {"/a": b"2"}}
    service.secrets = {"st-1": {"WORD": "x"}, "st-2": {"WORD": "x"}, "st-3": {"WORD": "y"}}
    first = await made(images, "COPY a /data/", mount="mo-1", secrets=("st-1",))
    same = await made(images, "COPY a /data/", mount="mo-2", secrets=("st-2",))
    assert same.image_id == first.image_id
    other_file = await made(images, "COPY a /data/", mount="mo-3", secrets=("st-1",))
    other_secret = await made(images, "COPY a /data/", mount="mo-1", secrets=("st-3",))
    assert len({first.image_id, other_file.image_id, other_secret.image_id}) == 3


@pytest.mark.parametrize(
    ("commands", "secret", "base"),
    [(("COPY a /data/",), "1234", ""), (("ENV A=1",), "", "debian"), (("WORKDIR /w",), "é\n", "")],
)
async def test_the_database_does_not_tell_what_a_secret_is(
    service: Service, images: Images, commands: tuple[str, ...], secret: str, base: str
) -> None:
    """Whoever has the database can make the key of any guess, but for what lies in a file of the cloud's own."""
    below = (await made(images, "ENV BASE=1")).image_id if base else ""
    service.mounts = {"mo-1": {"/a": b"1"}}
    service.secrets = {"st-1": {"PIN": secret}}
    first = await made(images, *commands, base=below, mount="mo-1", secrets=("st-1",))
    key = _stored(service, first.image_id)
    again = await made(service.open(), *commands, base=below, mount="mo-1", secrets=("st-1",))
    assert again.image_id == first.image_id
    (service.root.parent / "rootfs" / "private").unlink()
    other = service.open()
    second = await made(other, *commands, base=below, mount="mo-1", secrets=("st-1",))
    assert _stored(service, second.image_id) != key
    await other.aclose()


def _stored(service: Service, image_id: str) -> str:
    row = service.database.one("SELECT key FROM image_layers WHERE image_id=?", (image_id,))
    assert row is not None
    return str(row["key"])


async def test_layers_share_what_they_do_not_change(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/a": b"one"}, "mo-2": {"/a": b"two", "/b": b"three"}}
    base = await made(images, "COPY a /data/", mount="mo-1")
    upper = await made(images, "COPY . /data/", base=base.image_id, mount="mo-2")
    plain = await made(images, "ENV A=1", base=upper.image_id)
    assert base.directory is not None
    assert upper.directory is not None
    assert (base.directory / "root/data/a").read_bytes() == b"one"
    assert (upper.directory / "root/data/a").read_bytes() == b"two"
    assert (plain.directory, plain.env()["A"]) == (upper.directory, "1")


async def test_images_survive_a_restart(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/a": b"one"}}
    before = await made(images, "COPY a /data/", "ENV A=1", 'CMD ["x"]', "WORKDIR /w", mount="mo-1")
    again = service.open()
    assert again.built(before.image_id) == before
    assert (await made(again, "COPY a /data/", "ENV A=1", 'CMD ["x"]', "WORKDIR /w", mount="mo-1")) == before


async def test_a_stop_ends_builds_and_leaves_nothing(service: Service, images: Images, tmp_path: Path) -> None:
    mount = mounted(service, source_archive(tmp_path, "endless", "1.0", ENDLESS))
    image_id = await images.get_or_create(layer("COPY . /", f"{INSTALL} endless", mount=mount))
    await until_it_builds(service, images, image_id)
    await images.aclose()
    await nothing_is_left(service)
    assert "interrupted" in images.get(image_id).failure
    with pytest.raises(CloudError, match="interrupted"):
        images.built(image_id)
    assert list(service.root.iterdir()) == []


async def test_a_layer_has_its_time(
    service: Service, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.local_cloud.images.images.LAYER_DEADLINE_S", 3.0)
    mount = mounted(service, source_archive(tmp_path, "endless", "1.0", ENDLESS))
    image = await made(images, "COPY . /", f"{INSTALL} endless", mount=mount)
    assert (image.state, "not built within" in image.failure) == (FAILED, True)
    await nothing_is_left(service)


async def test_a_build_that_was_cut_off_counts_as_failed_and_is_done_anew(service: Service, images: Images) -> None:
    """As after a kill of the cloud: its row says that it is being built, and its scratch directory is there."""
    service.mounts = {"mo-1": {"/a": b"one"}}
    image = await made(images, "COPY a /data/", mount="mo-1")
    assert image.directory is not None
    service.database.execute("UPDATE image_layers SET state='building', directory=''")
    (service.root / "tmp-dead" / "image").mkdir(parents=True)
    again = service.open()
    await nothing_is_left(service)
    assert again.get(image.image_id).state == FAILED
    assert (await made(again, "COPY a /data/", mount="mo-1")).image_id == image.image_id
    assert (again.built(image.image_id).directory or Path()) / "root/data/a" == image.directory / "root/data/a"


async def test_a_directory_that_is_gone_is_built_anew(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/a": b"one"}}
    image = await made(images, "COPY a /data/", mount="mo-1")
    assert image.directory is not None
    shutil.rmtree(image.directory)
    with pytest.raises(CloudError, match="are missing"):
        images.built(image.image_id)
    again = await made(images, "COPY a /data/", mount="mo-1")
    assert again.image_id == image.image_id
    assert (image.directory / "root/data/a").read_bytes() == b"one"


async def test_a_log_is_followed_from_any_line(service: Service, images: Images, tmp_path: Path) -> None:
    mount = mounted(service, wheel(tmp_path, "told", "1.0", ""))
    image_id = await images.get_or_create(layer("COPY . /", f"{INSTALL} told", mount=mount))
    live = [line async for lines in images.follow(image_id, after=0, timeout_s=60) for line in lines]
    assert live[0].text == f"{FROM_PYTHON}\n"
    assert any("told==1.0" in line.text for line in live)
    for after in (0, 3, len(live)):
        assert [line async for lines in images.follow(image_id, after=after, timeout_s=0) for line in lines] == live[
            after:
        ]


async def test_a_file_and_a_directory_of_one_name_are_refused(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/a": b"one"}}
    image = await made(images, "COPY a /data", "COPY a /data/inner/a", mount="mo-1")
    assert "cannot be a file and a directory at once" in image.failure
    assert list(service.root.iterdir()) == []


async def test_a_source_that_is_not_there_is_named(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/a": b"one"}}
    assert "'nothing-*' is not in the build context" in (await made(images, "COPY nothing-* /x/", mount="mo-1")).failure


async def test_what_is_configured_for_installers_is_seen_by_builds_and_nothing_else(
    service: Service, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-hidden")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("UV_PUBLISH_TOKEN", "hidden")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "77")
    monkeypatch.setenv("PIP_RETRIES", "3")
    setup = "print('SEEN', sorted(n for n in os.environ if n.split('_')[0] in ('MODAL', 'AWS', 'UV', 'PIP')))"
    mount = mounted(service, source_archive(tmp_path, "seen", "1.0", setup))
    image = await made(images, "COPY . /", f"{INSTALL} -v seen", mount=mount)
    assert image.state == BUILT, image.failure
    (seen,) = {row.text for row in images.log_rows(image.image_id, Wanted(search="SEEN"))}
    assert "UV_HTTP_TIMEOUT" in seen
    assert "PIP_RETRIES" in seen
    for name in ("MODAL_TOKEN_SECRET", "AWS_SECRET_ACCESS_KEY", "UV_PUBLISH_TOKEN"):
        assert name not in seen


@pytest.mark.skipif(not build_sandbox.host.can_install(), reason="nothing here installs packages")
async def test_pip_builds_where_there_is_no_uv(
    service: Service, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_sandbox.host, "uv", lambda: None)
    mount = mounted(service, wheel(tmp_path, "piped", "1.0", ""))
    image = await made(images, "COPY . /", f"{INSTALL} piped", mount=mount)
    assert image.state == BUILT, image.failure
    assert image.directory is not None
    assert list(image.directory.glob("venv/opt/image/venv/lib/python3*/site-packages/piped.py"))


async def test_what_configures_pip_counts_when_uv_installs(
    service: Service, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private index that is not asked would let the public one answer for its names."""
    mount = mounted(service, wheel(tmp_path, "kept", "1.0", ""))
    environment = await made(
        images, "COPY . /", "ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels", "RUN pip install kept", mount=mount
    )
    assert environment.state == BUILT, environment.failure
    inline = await made(images, "RUN PIP_NO_INDEX=1 PIP_FIND_LINKS=/nowhere pip install kept", mount=mount)
    assert (inline.state, "/nowhere" in inline.failure) == (FAILED, True)
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = http://127.0.0.1:1/private\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    private = await made(images, "RUN pip install not-there-at-all")
    assert (private.state, "127.0.0.1:1/private" in private.failure) == (FAILED, True)
