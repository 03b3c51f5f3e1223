"""`add_python` copies a Python that uv has installed into an image, and takes back what uv has changed in it.

No such Python is needed here: one is made of the machine's own, in the form in which uv keeps them.
"""

import platform
import shutil
from pathlib import Path

import pytest
from modal_proto import api_pb2

from tests.standard.local_cloud.images.conftest import Service
from tests.support.registry import registry
from tests.support.small_image import small_image
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.images.images import BUILDING, BUILT
from workbench.local_cloud.mounts.mount_rpc import MountRpcs

VERSION = Path(system_python() or "").name.removeprefix("python")
OLD, NEW = (f"python-build-standalone.{release}.{VERSION}.9-gnu" for release in (20230826, 20261021))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python as uv keeps it, beside others that must not be taken."""
    place = tmp_path / "pythons"
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(place))
    own = place / f"cpython-{VERSION}.10-linux-{platform.machine()}-gnu"
    for other in (f"{VERSION}.9", f"{VERSION}.11+freethreaded", "3.1.12"):
        (place / f"cpython-{other}-linux-{platform.machine()}-gnu").mkdir(parents=True)
    (place / f"cpython-{VERSION}.13-linux-riscv64-gnu").mkdir()
    (place / f"cpython-{VERSION}-linux-{platform.machine()}-gnu").symlink_to(own)
    (own / "bin").mkdir(parents=True)
    shutil.copy(str(system_python()), own / "bin" / f"python{VERSION}")
    for name in ("python", "python3"):
        (own / "bin" / name).symlink_to(f"python{VERSION}")
    library = own / "lib" / f"python{VERSION}"
    shutil.copytree(f"/usr/lib/python{VERSION}/encodings", library / "encodings")
    for name in ("abc", "codecs", "genericpath", "io", "os", "posixpath", "stat", "_collections_abc"):
        shutil.copy(f"/usr/lib/python{VERSION}/{name}.py", library)
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\n")
    (library / "_sysconfigdata__linux_.py").write_text(f"build_time_vars = {{'prefix': '{own}'}}\n")
    return own


@pytest.fixture
def mounts(service: Service) -> MountRpcs:
    return MountRpcs(service.database, None, None, None)  # type: ignore[arg-type]  # no file of these mounts is stored


async def mount(mounts: MountRpcs, name: str) -> str:
    return (await mounts.MountGetOrCreate(api_pb2.MountGetOrCreateRequest(deployment_name=name), None)).mount_id


async def test_an_image_gets_the_newest_python_of_its_series(
    service: Service, mounts: MountRpcs, installed: Path
) -> None:
    mount_id = await mount(mounts, OLD)
    assert await mount(mounts, OLD) == mount_id
    service.rpcs = mounts
    images = service.open()
    code = "import sys, _sysconfigdata__linux_ as s; print(sys.executable, sys.prefix, s.build_time_vars['prefix'])"
    with registry() as served:
        served.push("small:1", small_image(programs=("sh", "ln", "ls", str(system_python()))))
        definition = api_pb2.Image(
            dockerfile_commands=[
                f"FROM {served.name('small:1')}",
                "COPY /python/. /usr/local",
                "RUN ln -s /usr/local/bin/python3 /usr/local/bin/python",
                f'RUN ls -l /usr/local/bin && /usr/local/bin/python -S -c "{code}"',
            ],
            context_mount_id=mount_id,
        )
        image_id = await images.get_or_create(definition)
        lines: list[str] = []
        while images.get(image_id).state == BUILDING:
            async for found in images.follow(image_id, after=len(lines), timeout_s=60):
                lines += [line.text for line in found]
    await images.aclose()
    assert images.get(image_id).state == BUILT, images.get(image_id).failure
    assert "/usr/local/bin/python /usr/local /usr/local\n" in lines, lines
    assert f"python3 -> python{VERSION}" in "".join(lines)


async def test_later_releases_have_a_program_python(mounts: MountRpcs, installed: Path, tmp_path: Path) -> None:
    for name, wanted in ((OLD, False), (NEW, True)):
        mounts.lay_out([await mount(mounts, name)], tmp_path / name)
        assert (tmp_path / name / "python" / "bin" / "python").is_symlink() == wanted
    assert (tmp_path / NEW / "python" / "lib" / f"python{VERSION}" / "os.py").is_file()
    assert list((tmp_path / NEW).rglob("EXTERNALLY-MANAGED")) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("python-build-standalone.20261021.3.4.17-gnu", "uv python install 3.4"),
        ("python-build-standalone.20261021.3.15.1t-gnu", "uv python install 3.15t"),
        ("python-build-standalone.20261021.3.15.1-musl", "is not a Python that the local cloud knows"),
        ("python-build-standalone.", "is not a Python that the local cloud knows"),
    ],
)
async def test_a_python_that_is_not_there_is_named(mounts: MountRpcs, installed: Path, name: str, reason: str) -> None:
    with pytest.raises(CloudError, match=reason):
        await mount(mounts, name)
