"""Images come from a registry whole and verified, or not at all; credentials go to nobody but the registry."""

import asyncio
import base64
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.layers import DOCKER, OCI, Image, Layer, archive, described, digest, directory, index, member
from tests.support.registry import Fault, Registry, registry
from workbench.local_cloud.base.errors import CloudError, Reason, exhausted
from workbench.local_cloud.registry import pulling
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.registry.credentials import Credentials
from workbench.local_cloud.registry.errors import RegistryError
from workbench.local_cloud.registry.manifests import Platform
from workbench.local_cloud.registry.pulling import PulledImage, pull
from workbench.local_cloud.registry.references import ImageReference

AMD = Platform("linux", "amd64")
PASSWORD = "the-password-of-ann"
ANN = Credentials("ann", SecretStr(PASSWORD))
SMALL = Layer.of(archive(directory("etc"), member("etc/issue", b"hello\n")))
LARGE = Layer.of(archive(member("noise", os.urandom(300_000))))
IMAGE = Image([SMALL, LARGE])


@pytest.fixture
def far() -> Iterator[Registry]:
    """A registry with an image `a/b:1`."""
    with registry() as one:
        one.push("a/b:1", IMAGE)
        yield one


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(pulling, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(pulling, "_LONGEST_WAIT_S", 0.02)


@dataclass
class Puller:
    """Pulls into one store."""

    store: BlobStore
    root: Path
    lines: list[str] = field(default_factory=list)

    async def __call__(self, name: str, **how: Any) -> PulledImage:
        return await pull(
            ImageReference.parse(name),
            **{
                "store": self.store,
                "credentials": None,
                "mirrors": {},
                "platform": AMD,
                "progress": self.lines.append,
                "timeout_s": 30,
                **how,
            },
        )

    def kept(self) -> set[str]:
        """The digests of all blobs, each verified; nothing else may be there."""
        assert list((self.root / "tmp").iterdir()) == []
        assert all(self.store.has(name, size) for name, size in self.store.kept())
        files = [path for path in self.root.rglob("*") if path.is_file()]
        assert all(path.relative_to(self.root).parts[0] == "sha256" for path in files)
        assert all(digest(path.read_bytes()) == f"sha256:{path.name}" for path in files)
        return {f"sha256:{path.name}" for path in files}


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(BlobStore(tmp_path / "blobs"), tmp_path / "blobs")


async def refusal(pulling: Any) -> RegistryError:
    """The error that a pull ends with; it has no secret in it, however it is shown."""
    with pytest.raises(RegistryError) as caught:
        await pulling
    shown = f"{caught.value} {caught.value!r} {caught.value.message}"
    assert PASSWORD not in shown
    assert ANN.basic().get_secret_value() not in shown
    assert "signed-for-one-reader" not in shown
    assert caught.value.__cause__ is None
    return caught.value


# -- what is pulled


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_an_image_is_there_with_its_configuration_and_its_verified_layers(
    far: Registry, puller: Puller, docker: bool, compression: str
) -> None:
    config = {
        "Entrypoint": ["/entry", "a b"],
        "Cmd": ["c"],
        "Env": ["PATH=/bin", "A=1=2", "A=3", "EMPTY="],
        "User": "ann:staff",
        "WorkingDir": "/srv",
        "Shell": ["/bin/bash", "-c"],
        "Labels": {"a": "b"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGINT",
        "OnBuild": ["RUN true"],
        "Healthcheck": {"Test": ["CMD", "x"]},
        "Volumes": {"/data": {}},
    }
    layers = [Layer.of(archive(member(name, b"x")), compression, docker=docker) for name in ("one", "two")]
    pushed = far.push("c/d:2", Image(layers, config, docker=docker))
    image = await puller(far.name("c/d:2"))
    assert image.digest == pushed
    assert image.config.entrypoint == ("/entry", "a b")
    assert image.config.cmd == ("c",)
    assert dict(image.config.env) == {"PATH": "/bin", "A": "3", "EMPTY": ""}
    assert (image.config.user, image.config.workdir, image.config.shell) == ("ann:staff", "/srv", ("/bin/bash", "-c"))
    assert (dict(image.config.labels), image.config.exposed_ports) == ({"a": "b"}, ("80/tcp", "53/udp"))
    assert (image.config.stop_signal, image.config.on_build) == ("SIGINT", ("RUN true",))
    assert image.config.history == ("step 0", "step 1")
    for pulled, pushed_layer in zip(image.layers, layers, strict=True):
        assert pulled.path.read_bytes() == pushed_layer.blob
        assert (pulled.digest, pulled.diff_id) == (digest(pushed_layer.blob), pushed_layer.diff_id)
        assert (pulled.media_type, pulled.size) == (pushed_layer.media_type, len(pushed_layer.blob))
    assert "Pulling" in puller.lines[0]
    assert any("Layer 2 of 2" in line for line in puller.lines)


@pytest.mark.parametrize("config", [{}, {"Cmd": None, "Entrypoint": None, "Env": None, "Labels": None, "User": None}])
async def test_what_a_configuration_leaves_out_is_empty(far: Registry, puller: Puller, config: dict[str, Any]) -> None:
    far.push("c:1", Image([SMALL], config))
    image = await puller(far.name("c:1"))
    assert (image.config.entrypoint, image.config.cmd, dict(image.config.env)) == ((), (), {})
    assert (image.config.user, image.config.workdir) == ("", "")


async def test_a_single_word_is_a_command(far: Registry, puller: Puller) -> None:
    """Old images have it as a text."""
    far.push("c:1", Image([SMALL], {"Entrypoint": "/init", "Cmd": "run"}))
    image = await puller(far.name("c:1"))
    assert (image.config.entrypoint, image.config.cmd) == (("/init",), ("run",))


async def test_an_image_by_its_digest(far: Registry, puller: Puller) -> None:
    image = await puller(f"{far.name('a/b')}:whatever@{digest(IMAGE.manifest())}")
    assert image.digest == digest(IMAGE.manifest())
    assert far.asked("whatever") == []


async def test_layers_that_are_here_are_not_downloaded_again(far: Registry, puller: Puller) -> None:
    await puller(far.name("a/b:1"))
    far.seen.clear()
    far.push("a/c:1", Image([SMALL, Layer.of(archive(member("more", b"x")))]))
    await puller(far.name("a/c:1"))
    assert len(far.asked("/blobs/")) == 2  # the configuration and the new layer
    assert any("here already" in line for line in puller.lines)


async def test_a_layer_that_stands_twice_is_downloaded_once(far: Registry, puller: Puller) -> None:
    far.push("a/twice:1", Image([LARGE, SMALL, LARGE]))
    image = await puller(far.name("a/twice:1"))
    assert image.layers[0] == image.layers[2]
    assert len(far.asked(digest(LARGE.blob))) == 1


async def test_pulls_at_once_share_their_downloads(far: Registry, puller: Puller) -> None:
    images = await asyncio.gather(*(puller(far.name("a/b:1")) for _ in range(5)))
    assert all(image.layers == images[0].layers for image in images)
    assert len(far.asked(digest(LARGE.blob))) == 1


# -- processors


@pytest.mark.parametrize("docker", [True, False])
async def test_of_an_index_the_image_for_this_processor_is_taken(far: Registry, puller: Puller, docker: bool) -> None:
    arm = Image([LARGE], architecture="arm64", variant="v8")
    far.push_index("m:1", Image([SMALL], architecture="s390x"), arm, IMAGE, docker=docker)
    assert (await puller(far.name("m:1"))).digest == digest(IMAGE.manifest())
    assert (await puller(far.name("m:1"), platform=Platform("linux", "arm64"))).digest == digest(arm.manifest())
    assert digest(SMALL.blob) in puller.kept()


async def test_attestations_in_an_index_are_no_images(far: Registry, puller: Puller) -> None:
    """buildx lists them as images of the platform unknown/unknown."""
    note = described(b"{}", f"{OCI}.manifest.v1+json", platform={"os": "unknown", "architecture": "unknown"})
    document = json.loads(index([IMAGE])[0])
    document["manifests"].insert(0, note)
    far.push("m:1", IMAGE)
    far.put("m:1", json.dumps(document).encode(), f"{OCI}.index.v1+json")
    assert (await puller(far.name("m:1"))).digest == digest(IMAGE.manifest())


@pytest.mark.parametrize("is_index", [True, False])
async def test_an_image_of_another_processor_is_refused_and_those_that_exist_are_named(
    far: Registry, puller: Puller, is_index: bool
) -> None:
    arm = Image([SMALL], architecture="arm64")
    if is_index:
        odd = Image([SMALL], architecture="\x1b[2J" + "x" * 100, variant="\n")
        far.push_index("m:1", arm, Image([SMALL], architecture="arm", variant="v7"), odd)
    else:
        far.push("m:1", arm)
    failure = await refusal(puller(far.name("m:1")))
    assert failure.reason is Reason.FAILED_PRECONDITION
    assert "linux/amd64" in failure.message
    assert "linux/arm64" in failure.message
    assert ("linux/arm/v7" in failure.message) is is_index
    assert failure.message.isprintable()
    assert digest(SMALL.blob) not in puller.kept()


# -- wrong content


@dataclass(frozen=True)
class Wrong:
    """What a registry does wrong, and what is said of it."""

    do: Callable[[Registry], object]
    said: str
    reason: Reason = Reason.DATA_LOSS


def _manifest(**changes: Any) -> Callable[[Registry], object]:
    """Put a manifest with other fields, None for those that are left out."""

    def put(far: Registry) -> object:
        document = {**json.loads(IMAGE.manifest()), **changes}
        kept = {key: value for key, value in document.items() if value is not None}
        return far.put("a/b:1", json.dumps(kept).encode(), document.get("mediaType") or f"{OCI}.manifest.v1+json")

    return put


def _answer(manifest: bytes, kind: str = f"{OCI}.manifest.v1+json") -> Callable[[Registry], object]:
    return lambda far: far.put("a/b:1", manifest, kind)


def _blob(content: bytes, **how: Any) -> Callable[[Registry], object]:
    return lambda far: far.faults.append(Fault("/blobs/", body=content, times=100, **how))


def _layer(**changes: Any) -> Callable[[Registry], object]:
    first = {**described(SMALL.blob, SMALL.media_type), **changes}
    return _manifest(layers=[first, described(LARGE.blob, LARGE.media_type)])


def _config(data: bytes) -> Callable[[Registry], object]:
    def put(far: Registry) -> object:
        far.blobs[digest(data)] = data
        return _manifest(config=described(data, f"{OCI}.config.v1+json"))(far)

    return put


SCHEMA_1 = b'{"schemaVersion": 1, "fsLayers": []}'
WRONG = {
    "blob of other content": Wrong(_blob(b"x" * len(IMAGE.configuration())), "digest is"),
    "blob that is too long": Wrong(_blob(IMAGE.configuration() + b"x"), "bytes; the image says"),
    "blob that is too long and has no length": Wrong(
        _blob(IMAGE.configuration() + b"x", headers={"Content-Length": ""}), "longer than"
    ),
    "blob that is too short": Wrong(_blob(b"x"), "bytes; the image says"),
    "manifest that is no JSON": Wrong(_answer(b"<html>"), "no valid one"),
    "manifest of deep JSON": Wrong(_answer(b"[" * 500_000), "no valid one"),
    "manifest that is huge": Wrong(_answer(b" " * (5 << 20)), "longer than"),
    "manifest that is an index, too": Wrong(_manifest(manifests=[]), "not of the kind"),
    "manifest of two kinds": Wrong(
        _answer(IMAGE.manifest(), f"{DOCKER}.distribution.manifest.v2+json"), "says that it is"
    ),
    "index that is called a manifest": Wrong(_manifest(manifests=[], layers=None, config=None), "not of the kind"),
    "manifest without layers": Wrong(_manifest(layers=None), "not of the kind"),
    "manifest of schema 1": Wrong(
        _answer(SCHEMA_1, f"{DOCKER}.distribution.manifest.v1+prettyjws"),
        "schema 1",
        Reason.INVALID_ARGUMENT,
    ),
    "manifest of schema 1 under another kind": Wrong(
        _answer(SCHEMA_1, "application/json"), "schema 1", Reason.INVALID_ARGUMENT
    ),
    "artifact": Wrong(
        _manifest(config=described(b"{}", "application/vnd.cncf.helm.config.v1+json")),
        "no container image",
        Reason.INVALID_ARGUMENT,
    ),
    "foreign layer": Wrong(
        _layer(mediaType=f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"), "foreign", Reason.INVALID_ARGUMENT
    ),
    "encrypted layer": Wrong(
        _layer(mediaType=f"{OCI}.layer.v1.tar+gzip+encrypted"), "encrypted", Reason.INVALID_ARGUMENT
    ),
    "layer of another digest": Wrong(_layer(digest=digest(b"other")), "does not have it", Reason.NOT_FOUND),
    "layer of another size": Wrong(_layer(size=len(SMALL.blob) + 1), "bytes; the image says"),
    "layer of an immense size": Wrong(_layer(size=1 << 50), "at most", Reason.INVALID_ARGUMENT),
    "layer of a negative size": Wrong(_layer(size=-1), "no valid one"),
    "digest that is a path": Wrong(_layer(digest="sha256:../../../passwd"), "is no digest", Reason.INVALID_ARGUMENT),
    "digest of another algorithm": Wrong(_layer(digest="sha512:" + "ab" * 64), "sha512", Reason.INVALID_ARGUMENT),
    "more layers than diff ids": Wrong(_manifest(layers=[described(SMALL.blob, SMALL.media_type)]), "1 layers"),
    "very many layers": Wrong(_manifest(layers=[described(SMALL.blob, SMALL.media_type)] * 500), "too_long"),
    "configuration that is no JSON": Wrong(_config(b"x"), "no valid one"),
    "configuration without layers": Wrong(_config(b"{}"), "rootfs"),
    "configuration of wrong types": Wrong(
        _config(json.dumps({"rootfs": {"diff_ids": []}, "config": {"Env": [1]}}).encode()), "Env"
    ),
    "configuration with a zero byte": Wrong(
        _config(json.dumps({"rootfs": {"diff_ids": []}, "config": {"User": "a\0b"}}).encode()), "User"
    ),
    "configuration of wrong diff ids": Wrong(
        _config(json.dumps({"rootfs": {"diff_ids": ["x", "y"]}}).encode()), "is no digest", Reason.INVALID_ARGUMENT
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_content_is_refused_before_it_is_used(far: Registry, puller: Puller, name: str) -> None:
    wrong = WRONG[name]
    wrong.do(far)
    failure = await refusal(puller(far.name("a/b:1")))
    assert failure.reason is wrong.reason
    assert wrong.said in failure.message
    assert far.name("a/b:1") in failure.message
    puller.kept()


async def test_a_manifest_of_another_digest_than_was_asked_for_is_refused(far: Registry, puller: Puller) -> None:
    other = Image([SMALL]).manifest()
    wanted = digest(IMAGE.manifest())
    far.manifests["a/b", wanted] = (other, f"{OCI}.manifest.v1+json")
    failure = await refusal(puller(f"{far.name('a/b')}@{wanted}"))
    assert failure.reason is Reason.DATA_LOSS
    far.push_index("m:1", IMAGE)
    far.manifests["m", wanted] = (other, f"{OCI}.manifest.v1+json")
    assert (await refusal(puller(far.name("m:1")))).reason is Reason.DATA_LOSS


async def test_an_index_in_an_index_is_not_followed(far: Registry, puller: Puller) -> None:
    inner, kind = index([IMAGE])
    outer = {"manifests": [described(inner, kind, platform={"os": "linux", "architecture": "amd64"})]}
    far.put("m:1", inner, kind)
    far.put("m:2", json.dumps({"schemaVersion": 2, "mediaType": kind, **outer}).encode(), kind)
    assert "another index" in (await refusal(puller(far.name("m:2")))).message


# -- what goes wrong on the way


async def test_a_download_that_is_cut_goes_on_where_it_was_cut(far: Registry, puller: Puller) -> None:
    far.faults.append(Fault(f"/blobs/{digest(LARGE.blob)}", cut_after=100_000, times=2))
    await puller(far.name("a/b:1"))
    ranges = [one.headers.get("range") for one in far.asked(digest(LARGE.blob))]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert digest(LARGE.blob) in puller.kept()


async def test_a_registry_without_ranges_is_asked_from_the_beginning(far: Registry, puller: Puller) -> None:
    far.knows_ranges = False
    far.faults.append(Fault(f"/blobs/{digest(LARGE.blob)}", cut_after=100_000))
    await puller(far.name("a/b:1"))
    assert digest(LARGE.blob) in puller.kept()


async def test_another_part_than_was_asked_for_is_refused(far: Registry, puller: Puller) -> None:
    path = f"/blobs/{digest(LARGE.blob)}"
    far.faults += [Fault(path, cut_after=100_000), Fault(path, headers={"Content-Range": "bytes 5-9/10"})]
    failure = await refusal(puller(far.name("a/b:1")))
    assert "another part" in failure.message
    puller.kept()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/", "/token"])
async def test_a_passing_failure_is_tried_again(far: Registry, puller: Puller, status: int, path: str) -> None:
    far.authentication = "bearer"
    far.faults.append(Fault(path, status=status, times=3, headers={"Retry-After": "0"}))
    await puller(far.name("a/b:1"))
    assert digest(LARGE.blob) in puller.kept()


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
async def test_a_failure_that_stays_is_told(far: Registry, puller: Puller, path: str) -> None:
    far.faults.append(Fault(path, status=503, times=100))
    failure = await refusal(puller(far.name("a/b:1")))
    assert failure.reason is Reason.UNAVAILABLE
    assert "503" in failure.message
    assert len(far.asked(path)) <= 16
    puller.kept()


async def test_a_registry_is_given_the_time_that_it_asks_for(
    far: Registry, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    again = pulling._again
    monkeypatch.setattr(pulling, "_again", lambda error: waits.append(again(error)) or bool(waits[-1]))
    at = format_datetime(datetime.now(UTC), usegmt=True)
    for retry_after in ("7", at, "nonsense", "-5", ""):
        far.faults.append(Fault("/manifests/", status=429, headers={"Retry-After": retry_after}))
        await puller(far.name("a/b:1"))
    assert waits == [7.0, pulling._FIRST_WAIT_S, True, True, True]


async def test_who_asks_for_an_hour_is_not_waited_for(far: Registry, puller: Puller) -> None:
    far.faults.append(Fault("/manifests/", status=429, headers={"Retry-After": "3600"}, times=100))
    failure = await refusal(puller(far.name("a/b:1")))
    assert "429" in failure.message
    assert len(far.seen) == 1


async def test_a_registry_that_is_away_is_told_with_what_to_do(puller: Puller) -> None:
    with registry() as gone:
        name = gone.name("a/b:1")
    failure = await refusal(puller(name))
    assert failure.reason is Reason.UNAVAILABLE
    assert "cannot be reached" in failure.message
    assert "mirror" in failure.message


async def test_a_registry_that_does_not_answer_ends_at_the_deadline(puller: Puller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        failure = await refusal(puller(f"127.0.0.1:{listener.getsockname()[1]}/a/b:1", timeout_s=0.3))
    assert failure.reason is Reason.DEADLINE_EXCEEDED


async def test_what_does_not_exist_is_not_found(far: Registry, puller: Puller) -> None:
    failure = await refusal(puller(far.name("a/b:none")))
    assert failure.reason is Reason.NOT_FOUND
    assert far.name("a/b:none") in failure.message


async def test_a_cancelled_pull_leaves_nothing_half(far: Registry, puller: Puller) -> None:
    far.faults.append(Fault(f"/blobs/{digest(LARGE.blob)}", status=503, headers={"Retry-After": "30"}))
    task = asyncio.create_task(puller(far.name("a/b:1")))
    while not far.asked(digest(LARGE.blob)):  # noqa: ASYNC110 - the registry is in another thread
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    puller.kept()
    await puller(far.name("a/b:1"))


async def test_a_full_disk_is_told_and_leaves_nothing_half(far: Registry, tmp_path: Path) -> None:
    def require_room(directory: Path, wanted: int) -> None:
        if wanted > 100_000:
            raise exhausted("The disk is full.")

    puller = Puller(BlobStore(tmp_path / "b", require_room=require_room), tmp_path / "b")
    with pytest.raises(CloudError) as failure:
        await puller(far.name("a/b:1"))
    assert failure.value.reason is Reason.RESOURCE_EXHAUSTED
    assert digest(LARGE.blob) not in puller.kept()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, timeout=30, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=30)


async def test_a_disk_that_gets_full_in_the_middle_is_told(far: Registry, small_disk: Path) -> None:
    puller = Puller(BlobStore(small_disk / "blobs"), small_disk / "blobs")
    failure = await refusal(puller(far.name("a/b:1")))
    assert failure.reason is Reason.RESOURCE_EXHAUSTED
    assert "No space left" in failure.message
    assert digest(LARGE.blob) not in puller.kept()
    far.push("a/small:1", Image([SMALL]))
    await puller(far.name("a/small:1"))


async def test_a_kept_configuration_that_was_damaged_is_told_and_pulled_again(far: Registry, puller: Puller) -> None:
    await puller(far.name("a/b:1"))
    configuration = IMAGE.configuration()
    puller.store.path(digest(configuration)).write_bytes(b"x" * len(configuration))
    assert (await refusal(puller(far.name("a/b:1")))).reason is Reason.DATA_LOSS
    await puller(far.name("a/b:1"))
    puller.kept()


PULLING = """
import asyncio, sys
from pathlib import Path
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.registry.manifests import Platform
from workbench.local_cloud.registry.pulling import pull
from workbench.local_cloud.registry.references import ImageReference
asyncio.run(pull(
    ImageReference.parse(sys.argv[1]), store=BlobStore(Path(sys.argv[2])), credentials=None, mirrors={},
    platform=Platform("linux", "amd64"), progress=print, timeout_s=60,
))
"""


def test_a_kill_in_the_middle_leaves_no_half_blob(far: Registry, tmp_path: Path) -> None:
    far.faults.append(Fault(f"/blobs/{digest(LARGE.blob)}", stall_after=100_000))
    root = tmp_path / "blobs"
    child = subprocess.Popen([sys.executable, "-c", PULLING, far.name("a/b:1"), str(root)], stdout=subprocess.DEVNULL)
    try:
        assert far.stalled.wait(30)
    finally:
        child.kill()
        child.wait(30)
    name = digest(LARGE.blob).removeprefix("sha256:")
    assert [path for path in (root / "sha256").rglob("*") if path.name == name] == []
    puller = Puller(BlobStore(root), root)
    puller.kept()
    asyncio.run(puller(far.name("a/b:1")))
    assert digest(LARGE.blob) in puller.kept()


async def test_what_a_killed_process_left_is_removed_at_the_next_start(far: Registry, puller: Puller) -> None:
    await puller(far.name("a/b:1"))
    kept = puller.kept()
    (puller.root / "tmp" / "half").write_bytes(b"x")
    again = Puller(BlobStore(puller.root), puller.root)
    assert again.kept() == kept
    far.seen.clear()
    await again(far.name("a/b:1"))
    assert far.asked("/blobs/") == []


# -- who may read


@pytest.mark.parametrize("authentication", ["basic", "bearer"])
async def test_a_private_image_is_pulled_with_its_credentials(
    far: Registry, puller: Puller, authentication: str
) -> None:
    far.authentication, far.users = authentication, {"ann": PASSWORD}
    await puller(far.name("a/b:1"), credentials=ANN)
    assert digest(LARGE.blob) in puller.kept()


async def test_a_public_image_is_pulled_with_a_token_for_anybody(far: Registry, puller: Puller) -> None:
    far.authentication = "bearer"
    await puller(far.name("a/b:1"))
    (asked,) = far.asked("/token")
    assert asked.query == {"scope": ["repository:a/b:pull"], "service": ["tests, and more"]}
    assert "authorization" not in asked.headers


async def test_a_token_that_has_ended_is_asked_for_again(far: Registry, puller: Puller) -> None:
    far.authentication = "bearer"
    await puller(far.name("a/b:1"))
    far.push("a/b:2", Image([Layer.of(archive(member("x", b"x")))]))
    again = far.tokens.clear
    far.faults.append(
        Fault("/blobs/", status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{far.address}/token"'})
    )
    again()
    await puller(far.name("a/b:2"))


@pytest.mark.parametrize("authentication", ["basic", "bearer"])
@pytest.mark.parametrize("credentials", [None, Credentials("ann", SecretStr("wrong"))])
async def test_who_may_not_read_is_told_what_to_check(
    far: Registry, puller: Puller, authentication: str, credentials: Credentials | None
) -> None:
    far.authentication, far.users = authentication, {"ann": PASSWORD}
    failure = await refusal(puller(far.name("a/b:1"), credentials=credentials))
    assert failure.reason is Reason.PERMISSION_DENIED
    assert ("REGISTRY_USERNAME" if credentials is None else "Check the secret") in failure.message


@pytest.mark.parametrize("challenge", ["", "Negotiate", 'Digest realm="x"', "Bearer", 'Bearer realm=""', "%%%"])
async def test_ways_of_authentication_that_are_not_known_are_told(
    far: Registry, puller: Puller, challenge: str
) -> None:
    far.faults.append(Fault("/v2/", status=401, times=100, headers={"WWW-Authenticate": challenge}))
    failure = await refusal(puller(far.name("a/b:1"), credentials=ANN))
    assert failure.reason in (Reason.UNIMPLEMENTED, Reason.PERMISSION_DENIED, Reason.DATA_LOSS)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b"{" * 9999, b" " * (2 << 20)],
)
async def test_a_token_server_that_answers_nonsense_is_told(far: Registry, puller: Puller, answer: bytes) -> None:
    far.authentication = "bearer"
    far.faults.append(Fault("/token", status=200, body=answer, times=100))
    failure = await refusal(puller(far.name("a/b:1"), credentials=ANN))
    assert failure.reason is Reason.DATA_LOSS
    assert "token server" in failure.message


@pytest.mark.parametrize("authentication", ["basic", "bearer"])
async def test_credentials_and_tokens_are_not_sent_to_where_blobs_are_kept(
    far: Registry, puller: Puller, authentication: str
) -> None:
    """Registries send readers to a storage of others, whose addresses are signed."""
    with registry(host="127.0.0.2") as storage:
        storage.blobs = far.blobs
        far.storage, far.authentication, far.users = storage.address, authentication, {"ann": PASSWORD}
        await puller(far.name("a/b:1"), credentials=ANN)
    assert len(storage.seen) == 3
    assert all("authorization" not in one.headers for one in storage.seen)
    assert all(PASSWORD not in str(one) for one in storage.seen)


@pytest.mark.parametrize("challenge", ['Bearer realm="http://{}/token"', 'Basic realm="x"'])
async def test_a_storage_that_asks_for_credentials_gets_none(far: Registry, puller: Puller, challenge: str) -> None:
    """Only the registry itself may name a token server."""
    with registry(host="127.0.0.2") as storage:
        refusing = Fault(
            "/blobs/", status=401, headers={"WWW-Authenticate": challenge.format(storage.address)}, times=100
        )
        storage.faults.append(refusing)
        far.storage, far.authentication, far.users = storage.address, "bearer", {"ann": PASSWORD}
        failure = await refusal(puller(far.name("a/b:1"), credentials=ANN))
    assert "storage" in failure.message
    assert storage.asked("/token") == []
    assert all("authorization" not in one.headers for one in storage.seen)


async def test_a_failure_of_the_storage_tells_no_signed_address(far: Registry, puller: Puller) -> None:
    with registry(host="127.0.0.2") as storage:
        far.storage = storage.address
        failure = await refusal(puller(far.name("a/b:1")))
        assert failure.reason is Reason.NOT_FOUND
    await refusal(puller(far.name("a/b:1")))  # it is away


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://example.com/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "https://ann:x@127.0.0.1/x",
        "http://[",
        "http://169.254.169.254/x",
    ],
)
async def test_no_address_is_followed_that_is_not_safe(far: Registry, puller: Puller, location: str) -> None:
    far.faults.append(Fault("/blobs/", status=307, headers={"Location": location}, times=100))
    failure = await refusal(puller(far.name("a/b:1")))
    assert failure.reason is Reason.DATA_LOSS
    assert "redirects" in failure.message


async def test_redirects_without_an_end_are_ended(far: Registry, puller: Puller) -> None:
    far.faults.append(Fault("/manifests/", status=302, headers={"Location": "/v2/a/b/manifests/1"}, times=100))
    assert "without an end" in (await refusal(puller(far.name("a/b:1")))).message
    assert len(far.seen) <= 10


@pytest.mark.parametrize(
    "realm", ["http://example.com/token", "http://169.254.169.254/", "ftp://x/", "https://a:b@x/", "x"]
)
async def test_no_token_server_is_asked_over_an_open_line(far: Registry, puller: Puller, realm: str) -> None:
    far.authentication, far.realm = "bearer", realm
    failure = await refusal(puller(far.name("a/b:1"), credentials=ANN))
    assert "token server" in failure.message


async def test_no_secret_is_logged(far: Registry, puller: Puller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    far.authentication, far.users = "bearer", {"ann": PASSWORD}
    far.faults.append(Fault("/blobs/", status=503))
    await puller(far.name("a/b:1"), credentials=ANN)
    logged = caplog.text + "\n".join(puller.lines)
    assert base64.b64encode(f"ann:{PASSWORD}".encode()).decode() not in logged
    assert not [token for token in (PASSWORD, *far.tokens) if token in logged]


# -- mirrors


async def test_a_mirror_is_asked_instead_and_gets_no_credentials(far: Registry, puller: Puller) -> None:
    far.push("library/alpine:3.19", IMAGE)
    await puller("alpine:3.19", mirrors={"docker.io": far.address}, credentials=ANN)
    assert digest(LARGE.blob) in puller.kept()
    assert all("authorization" not in one.headers for one in far.seen)


@pytest.mark.parametrize("form", ["{}/hub", "http://{}/hub/", "{}/hub/"])
async def test_a_mirror_may_have_a_place_within_a_registry(far: Registry, puller: Puller, form: str) -> None:
    far.push("hub/library/alpine:latest", IMAGE)
    await puller("alpine", mirrors={"docker.io": form.format(far.address), "ghcr.io": "x.invalid"})
    assert far.asked("^/v2/hub/library/alpine/manifests/latest$")


async def test_a_mirror_that_wants_credentials_is_told(far: Registry, puller: Puller) -> None:
    far.authentication, far.users = "basic", {"ann": PASSWORD}
    far.push("library/alpine:latest", IMAGE)
    failure = await refusal(puller("alpine", mirrors={"docker.io": far.address}, credentials=ANN))
    assert "A mirror is asked without credentials" in failure.message


@pytest.mark.parametrize(
    "mirror",
    [
        "http://mirror.example",
        "https://a:b@mirror.example",
        "https://",
        "ftp://127.0.0.1",
        "x y",
        "https://x:99999",
        "https://x/?a=b",
        "x/../y",
        "x/%2e%2e",
        "",
        "[::",
    ],
)
async def test_a_mirror_that_is_no_safe_address_is_refused(puller: Puller, mirror: str) -> None:
    failure = await refusal(puller("alpine", mirrors={"docker.io": mirror}))
    assert failure.reason is Reason.INVALID_ARGUMENT
    assert "mirror" in failure.message
