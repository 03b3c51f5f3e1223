"""Layers are unpacked whole and exact, by root of a user namespace; what a hostile one tries is refused."""

import errno
import gzip
import importlib
import os
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import zstandard

from tests.support.layers import Layer, archive, directory, hard_link, link, member
from tests.support.unpacked import Workspace
from workbench.local_cloud.registry.unpacking import LayerRefusedError, Unpacked, UnpackFailedError, child, read_report

OPAQUE = {"user.overlay.opaque": b"y"}
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw, effective and permitted
CHARACTER, BLOCK, FIFO = tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE


def layer(*members: tuple[tarfile.TarInfo, bytes], compression: str = "gzip") -> Layer:
    return Layer.of(archive(*members), compression)


# -- what ordinary layers have


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_layer_has_its_files_with_owners_modes_and_times(workspace: Workspace, compression: str, form: int) -> None:
    tar = archive(
        directory("./", 0o755, mtime=1_600_000_000),
        directory("./home/", 0o711, owner=(0, 50)),
        directory("home/ann", 0o700, owner=(1000, 1001), mtime=1_500_000_000),
        member("home/ann/.profile", b"export A=b\n", mode=0o600, owner=(1000, 1001), mtime=1_400_000_000),
        member("usr/bin/su", b"\x7fELF", mode=0o4755, owner=(0, 0)),
        member("usr/bin/wall", b"", mode=0o2755, owner=(0, 5)),
        directory("tmp", 0o1777),
        link("bin", "usr/bin"),
        link("etc/away", "/../../outside", owner=(7, 8)),
        member("run/pipe", kind=FIFO, mode=0o620, owner=(3, 4)),
        member("srv/nobody", b"x", owner=(65534, 65534)),
        form=form,
    )
    told = workspace.unpack(Layer.of(tar, compression))
    found = workspace.entries()
    assert told.entries == 11
    assert told.archive_bytes == len(tar)
    assert (found["."].mode, found["."].mtime) == (0o755, 1_600_000_000)
    assert (found["home"].mode, found["home"].owner) == (0o711, (0, 50))
    ann = found["home/ann"]
    assert (ann.kind, ann.mode, ann.owner, ann.mtime) == ("d", 0o700, (1000, 1001), 1_500_000_000)
    profile = found["home/ann/.profile"]
    assert (profile.content, profile.mode, profile.owner) == (b"export A=b\n", 0o600, (1000, 1001))
    assert profile.mtime == 1_400_000_000
    assert found["usr/bin/su"].mode == 0o4755
    assert (found["usr/bin/wall"].mode, found["usr/bin/wall"].owner) == (0o2755, (0, 5))
    assert found["tmp"].mode == 0o1777
    assert (found["bin"].kind, found["bin"].content) == ("l", b"usr/bin")
    assert (found["etc/away"].content, found["etc/away"].owner) == (b"/../../outside", (7, 8))
    assert (found["run/pipe"].kind, found["run/pipe"].mode, found["run/pipe"].owner) == ("p", 0o620, (3, 4))
    assert found["srv/nobody"].owner == (65534, 65534)


def test_names_may_be_long_and_of_any_bytes(workspace: Workspace) -> None:
    deep = "/".join(["directory" * 10] * 40)
    names = [
        "a" * 255,
        f"{deep}/file",
        "Grüße/\N{SNOWMAN}",
        "\udce9t\udce9",
        "new\nline",
        " ",
        "-rf",
        "a=b;c",
        "..x",
        ".wh",
        "wh.",
    ]
    workspace.unpack(layer(*(member(name, name.encode("utf-8", "surrogateescape")) for name in names)))
    found = workspace.entries()
    for name in names:
        assert found[name].content == name.encode("utf-8", "surrogateescape")


def test_long_names_of_gnu_tar_are_read(workspace: Workspace) -> None:
    name, target = "d/" * 60 + "n" * 200, "t/" * 80 + "n" * 100
    tar = archive(member(name, b"x"), link("l", target), form=tarfile.GNU_FORMAT)
    workspace.unpack(Layer.of(tar))
    found = workspace.entries()
    assert found[name].content == b"x"
    assert found["l"].content == target.encode()


def test_extended_attributes_that_files_need_are_kept_and_no_others(workspace: Workspace) -> None:
    value = CAPABILITY.decode("utf-8", "surrogateescape")
    workspace.unpack(
        layer(
            member(
                "bin/ping", b"x", xattrs={"security.capability": value, "user.mime": "text/plain\0\n", "trusted.x": "y"}
            ),
            member(
                "a", b"x", xattrs={"user.overlay.opaque": "y", "security.selinux": "x", "system.posix_acl_access": "x"}
            ),
            directory("d", xattrs={"user.note": "n", "user.overlay.opaque": "y", "user.overlay.redirect": "/etc"}),
            link("l", "a", xattrs={"user.note": "n"}),
            member("suid", b"x", mode=0o4755, owner=(5, 5), xattrs={"security.capability": value}),
        )
    )
    found = workspace.entries()
    assert set(found["bin/ping"].xattrs) == {"security.capability", "user.mime"}
    assert found["bin/ping"].xattrs["user.mime"] == b"text/plain\0\n"
    assert found["bin/ping"].xattrs["security.capability"][4:8] == CAPABILITY[4:8]
    assert found["a"].xattrs == {}
    assert found["d"].xattrs == {"user.note": b"n"}
    assert found["l"].xattrs == {}
    assert found["suid"].mode == 0o4755
    assert "security.capability" in found["suid"].xattrs


def test_hard_links_are_one_file(workspace: Workspace) -> None:
    workspace.unpack(
        layer(
            member("a", b"x", mode=0o600, owner=(3, 3)),
            hard_link("d/b", "a"),
            hard_link("c", "./d/b"),
            link("s", "a"),
            hard_link("t", "s"),
            member("p", kind=FIFO),
            hard_link("q", "p"),
        )
    )
    root = workspace.root / "layer"
    assert (root / "a").stat().st_nlink == 3
    assert (root / "a").samefile(root / "d/b")
    assert workspace.entries()["t"].kind == "l"
    assert workspace.entries()["q"].kind == "p"


def test_devices_are_left_out_and_counted(workspace: Workspace) -> None:
    told = workspace.unpack(
        layer(
            member("dev/null", kind=CHARACTER, device=(1, 3)),
            member("dev/sda", kind=BLOCK, device=(8, 0)),
            member("whiteout", kind=CHARACTER, device=(0, 0)),
            member("dev/x", b"file"),
        )
    )
    assert told.skipped_devices == 3
    assert set(workspace.entries()) == {".", "dev", "dev/x"}


@pytest.mark.parametrize("form", ["1.0", "old"])
def test_sparse_files_have_their_holes(workspace: Workspace, form: str) -> None:
    data = b"begin" + bytes(511 - 4)
    tar = _sparse_pax(data) if form == "1.0" else _sparse_gnu(data)
    workspace.unpack(Layer.of(tar))
    path = workspace.root / "layer/sparse"
    assert path.stat().st_size == 50_000_512
    assert path.stat().st_blocks * 512 < 1_000_000
    with path.open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(50_000_000)
        assert file.read() == data
    assert (workspace.root / "layer/after").read_bytes() == b"after"


def test_long_zeros_of_an_ordinary_file_take_no_disk(workspace: Workspace) -> None:
    workspace.unpack(layer(member("zeros", b"a" + bytes(20_000_000) + b"z")))
    path = workspace.root / "layer/zeros"
    assert path.read_bytes() == b"a" + bytes(20_000_000) + b"z"
    assert path.stat().st_blocks * 512 < 1_000_000


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zstd with a skippable frame", "gzip, level 0"])
def test_compressed_streams_of_several_parts_are_read_to_the_end(workspace: Workspace, kind: str) -> None:
    """pigz and estargz write several members, zstd:chunked several frames and one that decompressors skip."""
    tar = archive(*(member(f"f{number}", os.urandom(3000)) for number in range(50)))
    parts = [tar[start : start + 20_000] for start in range(0, len(tar), 20_000)]
    if kind.startswith("gzip"):
        blob = b"".join(gzip.compress(part, 0 if "0" in kind else 9) for part in parts) + bytes(100)
    else:
        blob = b"".join(zstandard.compress(part) for part in parts)
        if "skippable" in kind:
            skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 10) + b"0123456789"
            blob = skipped + blob + skipped
    plain = Layer.of(tar, "")
    workspace.unpack(Layer(blob, plain.media_type, plain.diff_id))
    assert len(workspace.entries()) == 51


def test_a_kind_that_does_not_fit_the_content_does_not_matter(workspace: Workspace) -> None:
    """Docker looks at the content, and images exist whose manifests are wrong about it."""
    zstd = layer(member("a", b"x"), compression="zstd")
    workspace.unpack(Layer(zstd.blob, layer(member("a")).media_type, zstd.diff_id))
    assert workspace.entries()["a"].content == b"x"


@pytest.mark.parametrize("tar", [bytes(1024), bytes(10240), archive()])
def test_a_layer_may_be_empty(workspace: Workspace, tar: bytes) -> None:
    assert workspace.unpack(Layer.of(tar)).entries == 0
    assert set(workspace.entries()) == {"."}


def test_an_archive_without_its_last_zeros_is_read(workspace: Workspace) -> None:
    tar = archive(member("a", b"x")).rstrip(b"\0")
    tar += bytes(-len(tar) % 512)
    workspace.unpack(Layer.of(tar))
    assert workspace.entries()["a"].content == b"x"


# -- names that come again


def test_of_a_name_that_comes_again_the_last_counts(workspace: Workspace) -> None:
    workspace.unpack(
        layer(
            member("a", b"first", mode=0o600),
            member("a", b"second", mode=0o640),
            member("b", b"file"),
            directory("b", 0o700),
            member("b/c", b"x"),
            directory("d"),
            member("d/e/f", b"x"),
            member("d", b"file"),
            link("s", "/etc"),
            member("s", b"file"),
            directory("t", 0o700, xattrs={"user.a": "1"}),
            member("t/x", b"kept"),
            directory("t", 0o711, owner=(3, 4), xattrs={"user.b": "2"}),
            link("u", "a"),
            directory("u"),
        )
    )
    found = workspace.entries()
    assert (found["a"].content, found["a"].mode) == (b"second", 0o640)
    assert found["b"].kind == "d"
    assert found["b/c"].content == b"x"
    assert (found["d"].kind, found["d"].content) == ("-", b"file")
    assert (found["s"].kind, found["s"].content) == ("-", b"file")
    assert (found["t"].mode, found["t"].owner, found["t"].xattrs) == (0o711, (3, 4), {"user.b": b"2"})
    assert found["t/x"].content == b"kept"
    assert (found["u"].kind, found["a"].content) == ("d", b"second")


def test_a_write_to_a_name_that_comes_again_does_not_reach_its_hard_link(workspace: Workspace) -> None:
    workspace.unpack(layer(member("a", b"first"), hard_link("b", "a"), member("a", b"second")))
    assert workspace.entries()["b"].content == b"first"


# -- whiteouts


def test_whiteouts_become_those_of_the_overlay(workspace: Workspace) -> None:
    workspace.unpack(
        layer(
            directory("etc"),
            member("etc/.wh.passwd"),
            member("opt/.wh..wh..opq"),
            member(".wh.srv"),
            member("x/.wh..wh.plnk"),
            member("x/.wh..wh.aufs", b"123"),
        )
    )
    found = workspace.entries()
    for name in ("etc/passwd", "srv"):
        assert found[name].kind == "c"
        assert (workspace.root / "layer" / name).lstat().st_rdev == 0
    assert found["opt"].xattrs == OPAQUE
    assert found["etc"].xattrs == {}
    assert not [name for name in found if ".wh." in name]


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_hides_what_is_below_and_never_what_its_own_layer_has(workspace: Workspace, first: bool) -> None:
    """The order within an archive does not matter, by the image specification."""
    hidden = [member(".wh.a"), member(".wh.d"), member(".wh.e"), member("f/.wh..wh..opq")]
    present = [member("a", b"x"), directory("d", 0o700), member("d/x", b"x"), member("e/y", b"y"), member("f/z", b"z")]
    workspace.unpack(layer(*(hidden + present if first else present + hidden)))
    found = workspace.entries()
    assert found["a"].content == b"x"
    assert (found["d"].mode, found["d"].xattrs) == (0o700, OPAQUE)
    assert found["d/x"].content == b"x"
    assert (found["e"].xattrs, found["e/y"].content) == (OPAQUE, b"y")
    assert (found["f"].xattrs, found["f/z"].content) == (OPAQUE, b"z")


# -- the layers below


def _below(workspace: Workspace) -> None:
    workspace.unpack(
        layer(
            directory(".", 0o711, owner=(9, 9), mtime=1_111_111_111),
            directory("home", 0o750, owner=(0, 6), mtime=1_222_222_222, xattrs={"user.note": "kept"}),
            directory("home/ann", 0o700, owner=(1000, 1000), mtime=1_333_333_333),
            directory("usr/lib", 0o755),
            directory("var/run", 0o1777),
            member("file", b"x"),
            link("lib", "usr/lib"),
            link("abs", "/usr/lib"),
            link("out", "../../../../usr/lib"),
            link("chain", "lib"),
            link("usr/up", "../home"),
            link("loop", "pool"),
            link("pool", "loop"),
            link("gone", "nowhere/at/all"),
        ),
        name="below",
    )


def test_a_directory_that_is_not_listed_is_as_it_is_below(workspace: Workspace) -> None:
    """The top layer's directory decides: of another owner, it would lock out the home's user."""
    _below(workspace)
    workspace.unpack(layer(member("home/ann/.cache/x", b"x"), member("new/y", b"y")), below=["below"])
    found = workspace.entries()
    assert (found["."].mode, found["."].owner, found["."].mtime) == (0o711, (9, 9), 1_111_111_111)
    home = found["home"]
    assert (home.mode, home.owner, home.mtime, home.xattrs) == (0o750, (0, 6), 1_222_222_222, {"user.note": b"kept"})
    ann = found["home/ann"]
    assert (ann.mode, ann.owner, ann.mtime) == (0o700, (1000, 1000), 1_333_333_333)
    assert (found["home/ann/.cache"].mode, found["home/ann/.cache"].owner) == (0o755, (0, 0))
    assert (found["new"].mode, found["new"].owner) == (0o755, (0, 0))


def test_a_directory_that_is_listed_is_as_it_is_listed(workspace: Workspace) -> None:
    _below(workspace)
    members = [member("home/x", b"x"), directory("home", 0o711, owner=(1, 2), mtime=1_000_000_000)]
    workspace.unpack(layer(*members), below=["below"])
    home = workspace.entries()["home"]
    assert (home.mode, home.owner, home.mtime, home.xattrs) == (0o711, (1, 2), 1_000_000_000, {})


def test_what_is_hidden_below_lends_nothing(workspace: Workspace) -> None:
    _below(workspace)
    hidden = [member(".wh.home"), member("home/ann/x", b"x"), directory("var"), member("var/.wh..wh..opq")]
    workspace.unpack(layer(*hidden, member("var/run/x", b"x")), below=["below"])
    found = workspace.entries()
    assert (found["home"].owner, found["home"].xattrs) == ((0, 0), OPAQUE)
    assert (found["home/ann"].mode, found["home/ann"].owner) == (0o755, (0, 0))
    assert found["var/run"].mode == 0o755


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lib/x", "usr/lib/x"),
        ("abs/x", "usr/lib/x"),
        ("out/x", "usr/lib/x"),
        ("chain/x", "usr/lib/x"),
        ("usr/up/ann/x", "home/ann/x"),
        ("gone/x", "nowhere/at/all/x"),
        ("file/x", "file/x"),
    ],
)
def test_a_name_behind_a_link_of_a_layer_below_is_where_the_link_leads(
    workspace: Workspace, name: str, place: str
) -> None:
    """A directory in the link's place would hide /lib of every merged system. No link leads out of the root."""
    _below(workspace)
    workspace.unpack(layer(member(name, b"x")), below=["below"])
    found = workspace.entries()
    assert found[place].content == b"x"
    assert not [entry for entry in found.values() if entry.kind == "l"]


def test_links_below_that_go_round_are_refused(workspace: Workspace) -> None:
    _below(workspace)
    with pytest.raises(LayerRefusedError, match="behind too many links"):
        workspace.unpack(layer(member("loop/x", b"x")), below=["below"])


# -- what is refused


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../evil", b"x")], "leads out of the layer by '..'"),
        ([member("a/../../evil", b"x")], "leads out of the layer by '..'"),
        ([member("a/..", b"x")], "leads out of the layer by '..'"),
        ([directory("..")], "leads out of the layer by '..'"),
        ([link("../l", "x")], "leads out of the layer by '..'"),
        ([member("/etc/passwd", b"x")], "from the root of the file system on"),
        ([member("//etc/passwd", b"x")], "from the root of the file system on"),
        ([link("/l", "x")], "from the root of the file system on"),
        ([member("../.wh.x")], "leads out of the layer by '..'"),
        ([member("../.wh..wh..opq")], "leads out of the layer by '..'"),
        ([member("/.wh.x")], "from the root of the file system on"),
        ([link("d", "/etc"), member("d/passwd", b"x")], "behind a link of the same layer"),
        ([link("d", "."), member("d/x", b"x")], "behind a link of the same layer"),
        ([link("d", "e"), directory("e"), directory("d/x")], "behind a link of the same layer"),
        ([link("d", "../.."), member("d/.wh.x")], "behind a link of the same layer"),
        ([link("d", "/"), member("d/.wh..wh..opq")], "behind a link of the same layer"),
        ([link("a", "b"), link("b", "/tmp"), member("a/x", b"x")], "behind a link of the same layer"),
        ([directory("a"), link("a/b", ".."), member("a/b/c/d", b"x")], "behind a link of the same layer"),
        ([member("f", b"x"), member("f/x", b"x")], "in something that is no directory"),
        ([member("p", kind=FIFO), member("p/x", b"x")], "in something that is no directory"),
        ([hard_link("h", "/etc/passwd")], "from the root of the file system on"),
        ([hard_link("h", "../../etc/passwd")], "leads out of the layer by '..'"),
        ([hard_link("h", "nothing")], "is no file of the layer"),
        ([hard_link("h", "no/thing")], "is no file of the layer"),
        ([hard_link("h", "")], "is no file of the layer"),
        ([hard_link("h", ".")], "is no file of the layer"),
        ([directory("d"), hard_link("h", "d")], "is no file of the layer"),
        ([link("d", "/etc"), hard_link("h", "d/passwd")], "is no file of the layer"),
        ([member(".wh.x"), hard_link("h", "x")], "is no file of the layer"),
        ([member("a", b"x"), hard_link("a", "a")], "is no file of the layer"),
        ([link("l", "")], "has no target"),
        ([link("l", "x" * 4096)], "has no target"),
        ([member("d/.wh.", b"")], "removes nothing that has a name"),
        ([member(".wh...")], "removes nothing that has a name"),
        ([member(".wh..")], "removes nothing that has a name"),
        ([member(".", b"x")], "is the layer's root and no directory"),
        ([link("./", "/etc")], "is the layer's root and no directory"),
        ([member("x" * 256, b"x")], "more than 255 bytes"),
        ([member("/".join(["d"] * 200), b"x")], "deeper than 128"),
        ([member("/".join(["d" * 100] * 50), b"x")], "more than 4096 bytes"),
        ([member("x", b"x", owner=(70_000, 0))], "beyond those that sandboxes have"),
        ([directory("x", owner=(0, 70_000))], "beyond those that sandboxes have"),
        ([link("x", "y", owner=(2**31, 0))], "beyond those that sandboxes have"),
        ([member("x", kind=FIFO, owner=(70_000, 0))], "beyond those that sandboxes have"),
        ([member("x", b"x", owner=(2**32 - 1, 0))], "no user or group"),
        ([member("x", b"x", owner=(-1, 0))], "no user or group"),
        ([member("x", b"x", xattrs={"security.capability": "nonsense"})], "cannot be set"),
        ([member("x", b"x", xattrs={"user.": "x"})], "without a proper name"),
        ([member("x", b"x", xattrs={"user." + "n" * 300: "x"})], "without a proper name"),
        ([member("x", b"x", kind=b"Z")], "of a kind that no layer has"),
        ([member("x", b"x", kind=b"V")], "of a kind that no layer has"),
    ],
)
def test_a_hostile_member_is_refused_by_its_name(
    workspace: Workspace, members: list[tuple[tarfile.TarInfo, bytes]], said: str
) -> None:
    with pytest.raises(LayerRefusedError, match=r"entry|link|layer") as refusal:
        workspace.unpack(layer(*members))
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_a_name_with_a_zero_byte_is_refused(workspace: Workspace) -> None:
    tar = archive(member("a" * 120, b"x"))
    assert tar.count(b"path=" + b"a" * 120) == 1
    with pytest.raises(LayerRefusedError, match="zero byte"):
        workspace.unpack(Layer.of(tar.replace(b"path=aaaa", b"path=a\0aa")))


def test_a_refusal_shows_nothing_that_a_terminal_obeys(workspace: Workspace) -> None:
    with pytest.raises(LayerRefusedError) as refusal:
        workspace.unpack(layer(member("../\x1b[2J\x07\n\u202e" + "x" * 500, b"x")))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_another_digest_than_the_images_is_refused(workspace: Workspace, compression: str) -> None:
    good = layer(member("a", b"x"), compression=compression)
    with pytest.raises(LayerRefusedError, match="the image says"):
        workspace.unpack(Layer(good.blob, good.media_type, "sha256:" + "0" * 64))


def test_what_follows_the_archives_end_belongs_to_the_digest(workspace: Workspace) -> None:
    tar = archive(member("a", b"x"))
    good = Layer.of(tar + b"trailing" * 1000)
    workspace.unpack(good)
    with pytest.raises(LayerRefusedError, match="the image says"):
        workspace.unpack(Layer(good.blob, good.media_type, Layer.of(tar).diff_id), name="other")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"no archive at all",
        b"x" * 5000,
        gzip.compress(b"no archive"),
        gzip.compress(archive(member("a", b"x" * 5000)))[:-20],
        gzip.compress(archive(member("a", b"x" * 5000)))[:30],
        gzip.compress(archive(member("a", b"x"))) + b"garbage",
        zstandard.compress(archive(member("a", os.urandom(300_000))))[:100_000],
        b"\x28\xb5\x2f\xfd" + b"garbage" * 10,
        archive(member("a", b"x" * 5000))[:1500],
        archive(member("a", b"x"))[:700],
        archive(member("a", b"x"))[:100],
        archive(member("a", b"x"))[:1024] + b"broken header".ljust(512, b"x") + archive(member("b", b"x")),
    ],
    ids=[
        "nothing", "text", "one letter", "gzip of text", "gzip cut at its end", "gzip cut early", "gzip and garbage",
        "zstd cut", "zstd of garbage", "archive cut in a file", "archive cut after a file", "header cut",
        "broken header",
    ],
)  # fmt: skip
def test_a_damaged_layer_is_refused(workspace: Workspace, blob: bytes) -> None:
    """Also in the middle, where tarfile takes a broken header for the end."""
    with pytest.raises(LayerRefusedError):
        workspace.unpack(Layer(blob, "", "sha256:" + "0" * 64))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_ends_at_its_ratio(workspace: Workspace, compression: str) -> None:
    bomb = layer(member("zeros", bytes(200 << 20)), compression=compression)
    assert len(bomb.blob) < 1 << 20
    with pytest.raises(LayerRefusedError, match="250th of its size"):
        workspace.unpack(bomb, ratio_from=1 << 20)


@pytest.mark.parametrize("where", ["in a file", "after the end"])
def test_a_layer_ends_at_its_greatest_size(workspace: Workspace, where: str) -> None:
    tar = archive(member("a", os.urandom(3_000_000))) if where == "in a file" else archive() + os.urandom(3_000_000)
    with pytest.raises(LayerRefusedError, match="more than 1,000,000 bytes"):
        workspace.unpack(Layer.of(tar), archive=1_000_000)


def test_holes_count_for_a_layers_size(workspace: Workspace) -> None:
    with pytest.raises(LayerRefusedError, match="files have more than 1,000,000 bytes"):
        workspace.unpack(Layer.of(_sparse_pax(b"x" * 512)), archive=1_000_000)


def test_entries_are_limited(workspace: Workspace) -> None:
    with pytest.raises(LayerRefusedError, match="more than 100 entries"):
        workspace.unpack(layer(*(member(f"f{number}") for number in range(101))), entries=100)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_would_fill_the_memory_is_refused(workspace: Workspace, kind: bytes) -> None:
    """tarfile reads such a member at once, however long it says that it is."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 3 << 30
    tar = header.tobuf(tarfile.USTAR_FORMAT) + b"path=" * 2_000_000
    with pytest.raises(LayerRefusedError, match="header is longer than"):
        workspace.unpack(Layer.of(tar), ratio=10_000)


def test_a_chain_of_headers_is_refused(workspace: Workspace) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    with pytest.raises(LayerRefusedError, match=r"makes no sense|longer than"):
        workspace.unpack(Layer.of(header.tobuf(tarfile.USTAR_FORMAT) * 20_000))


@pytest.mark.parametrize(
    "body",
    [
        b"9" * 400_000,
        b"2 " * 200_000 + b"=",
        b"400000 " + b"k" * 100_000 + b"=" + b"v" * 299_992 + b"\n",
        b"20 hdrcharset=BINARY\n" + b"1" * 300_000,
        b"300010 comment=" + b"1" * 299_994 + b"\n",
        b"0 path=x\n",
        b"10 path=xyz",
        b"99 path=x\n",
        b"5 path=x\n",
        b"path=x\n",
        b"-9 path=x\n",
        b"9 path=xx\n",
        b"\0" * 100,
    ],
)
def test_extended_headers_that_nobody_writes_are_refused_at_once(workspace: Workspace, body: bytes) -> None:
    """Older tarfiles search such texts for hours, or make gigabytes of them."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    tar = header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512) + archive(member("x", b"x"))
    with pytest.raises(LayerRefusedError, match="extended header"):
        workspace.unpack(Layer.of(tar))


def test_implied_directories_count_as_entries(workspace: Workspace) -> None:
    with pytest.raises(LayerRefusedError, match="more than 100 entries"):
        workspace.unpack(layer(*(member(f"{number}/a/b/c/d", b"x") for number in range(25))), entries=100)


def test_the_names_of_directories_are_limited(workspace: Workspace) -> None:
    """They are kept in memory until the end."""
    with pytest.raises(LayerRefusedError, match="too long together"):
        workspace.unpack(layer(*(directory("d" * 200 + str(number)) for number in range(100))), directories=10_000)


def test_what_is_skipped_is_no_header(workspace: Workspace) -> None:
    """A whiteout may have content, which nobody wants."""
    workspace.unpack(layer(member(".wh.x", os.urandom(2_000_000)), member("y", b"y")))
    assert workspace.entries()["y"].content == b"y"


def test_global_headers_are_limited(workspace: Workspace) -> None:
    members = b""
    for number in range(3):
        keys = {f"k{number}.{each}": "v" for each in range(500)}
        members += tarfile.TarInfo.create_pax_global_header(keys) + archive(member(f"f{number}"))[:512]
    with pytest.raises(LayerRefusedError, match="global headers"):
        workspace.unpack(Layer.of(members))


@pytest.mark.parametrize(
    "regions", ["5,1,0,1", "0,10,5,10", "-5,1", "0,-1", "0,99999999999", "100000000000,1", "0,1,x", "9" * 5000]
)
def test_holes_that_make_no_sense_are_refused(workspace: Workspace, regions: str) -> None:
    item, content = member("sparse", b"x" * 512)
    item.pax_headers = {"GNU.sparse.map": regions, "GNU.sparse.size": "1000", "GNU.sparse.name": "sparse"}
    with pytest.raises(LayerRefusedError):
        workspace.unpack(layer((item, content)))


@pytest.mark.parametrize("mtime", [-5.0, 1e300, float("inf"), float("nan"), 2.0**40, 1.5])
def test_no_time_of_change_breaks_a_layer(workspace: Workspace, mtime: float) -> None:
    item, content = member("a", b"x", mtime=0)
    item.pax_headers = {"mtime": str(mtime)}
    workspace.unpack(layer((item, content)))
    assert workspace.entries()["a"].mtime == (1.5 if mtime == 1.5 else 0)


@pytest.mark.parametrize("mtime", ["1796042674.406004565", "1796042674.4060045651", "1.", "8589934592", "0.000000001"])
def test_times_are_exact_to_the_nanosecond(workspace: Workspace, mtime: str) -> None:
    item, content = member("a", b"x", mtime=0)
    item.pax_headers = {"mtime": mtime}
    workspace.unpack(layer((item, content)))
    whole, _, part = mtime.partition(".")
    assert (workspace.root / "layer/a").stat().st_mtime_ns == int(whole) * 10**9 + int(part[:9].ljust(9, "0"))


def test_nothing_is_imported_from_the_layer(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the chroot, the paths of Python's packages are the layer's: an import would run its code."""

    def importing(*_: object, **__: object) -> Unpacked:
        Path("/package").mkdir()
        Path("/package/planted.py").write_text("")
        with suppress(ImportError):
            importlib.import_module("package.planted")
        return Unpacked(entries=int("package.planted" in sys.modules), archive_bytes=0, skipped_devices=0)

    package = ModuleType("package")
    package.__path__ = ["/package"]  # as `encodings` has one, where Python looks for the names of others
    monkeypatch.setitem(sys.modules, "package", package)
    monkeypatch.setattr(child, "unpack", importing)
    assert workspace.unpack(layer(member("x"))).entries == 0


def test_it_runs_as_a_script_with_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """A launcher may execute it where this project's packages are not."""
    good = layer(member("a", b"x", owner=(os.geteuid(), os.getegid())), compression="gzip")
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as blob, os.fdopen(reader, "rb") as report:
        blob.write(good.blob)
        blob.flush()
        command = [
            sys.executable,
            "-IS",
            str(Path(child.__file__).parent),
            "--blob",
            str(blob.fileno()),
            "--report",
            str(writer),
        ]
        command += ["--diff-id", good.diff_id]
        done = subprocess.run(command, cwd=tmp_path, pass_fds=(blob.fileno(), writer), timeout=60, check=False)
        os.close(writer)
        assert read_report(report.read()).entries == 1
    assert done.returncode == 0
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_damaged_in_an_archive_it_is_refused_or_unpacked(workspace: Workspace, seed: int) -> None:
    """Nothing that tarfile raises of strange bytes comes through as a failure of this machine."""
    chance = random.Random(seed)
    members = [
        directory("a"),
        member("a/b", b"x" * 700),
        link("l", "a/b"),
        hard_link("h", "a/b"),
        member("n" * 200, b"y"),
    ]
    whole = [
        archive(*members),
        archive(*members, form=tarfile.GNU_FORMAT),
        _sparse_pax(b"x" * 512),
        _sparse_gnu(b"x" * 512),
    ]
    for number in range(20):
        tar = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 2, 10))):
            tar[chance.randrange(len(tar))] = chance.choice(b"0123456789 =\n\0/.\x80\xff")
        for start in range(0, len(tar) - 511, 512):  # so that what is damaged is not just the sum
            if tar[start + 257 : start + 262] == b"ustar":
                tar[start + 148 : start + 156] = b" " * 8
                tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])
        with suppress(LayerRefusedError):
            workspace.unpack(Layer.of(bytes(tar), ""), name=f"layer{number}")


# -- the report


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"unpacked": {}}', b'{"failed": 1}', b'{"unpacked": {"entries']
)
def test_a_child_that_was_killed_has_failed(data: bytes) -> None:
    with pytest.raises(UnpackFailedError, match="ended before it was done"):
        read_report(data)


def test_a_disk_that_is_full_is_no_fault_of_the_layer(workspace: Workspace) -> None:
    with pytest.raises(UnpackFailedError, match="No space left") as failure:
        workspace.unpack(layer(member("a", os.urandom(1_000_000))), disk_bytes=500_000)
    assert failure.value.code == errno.ENOSPC


def test_a_failure_of_this_machine_has_its_number() -> None:
    with pytest.raises(UnpackFailedError, match="space") as failure:
        read_report(b'{"failed": "No space left", "code": 28}')
    assert failure.value.code == 28


# -- sparse files, which tarfile reads and does not write


def _sparse_pax(data: bytes) -> bytes:
    """GNU's format 1.0: the map stands before the data."""
    regions = f"2\n0\n512\n50000000\n{len(data)}\n".encode().ljust(512, b"\0")
    item, content = member("GNUSparseFile.0/sparse", regions + data[:512].ljust(512, b"\0") + data)
    item.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": str(50_000_000 + len(data)),
    }
    return archive((item, content), member("after", b"after"))


def _sparse_gnu(data: bytes) -> bytes:
    """GNU's old format: the map stands in the header."""
    item = tarfile.TarInfo("sparse")
    item.type, item.size, item.mtime = tarfile.GNUTYPE_SPARSE, 512 + len(data), 1_700_000_000
    header = bytearray(item.tobuf(tarfile.GNU_FORMAT))
    regions = [(0, 512), (50_000_000, len(data))]
    header[386 : 386 + 48] = b"".join(b"%011o\0" % number for region in regions for number in region)
    header[483:495] = b"%011o\0" % (50_000_000 + len(data))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    body = data[:512].ljust(512, b"\0") + data
    return bytes(header) + body + bytes(-len(body) % 512) + archive(member("after", b"after"))
