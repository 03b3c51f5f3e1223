"""An image's files are seen where they belong, and nothing of the guest's own is hidden by them."""

from pathlib import Path

import pytest

from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.dockerfile import RefusedError


@pytest.mark.parametrize(
    ("text", "workdir", "expected"),
    [
        ("/data/x", "/", "/data/x"),
        ("x/./y", "/srv", "/srv/x/y"),
        ("//etc/app.conf", "/", "/etc/app.conf"),
        (".", "/a", "/a"),
    ],
)
def test_paths_are_made_absolute(text: str, workdir: str, expected: str) -> None:
    assert str(layouts.target(text, workdir=workdir)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "../x", "/data/../etc/passwd", "/a\0b", "/a\nb", "/" + "x" * 2000),
        *("/proc/1/x", "/dev/null", "/sys", "/usr/bin/x", "/lib/x", "/run/agent.py", "//proc/x"),
        *("/etc/passwd", "/etc/ssl/certs/x", "/opt/image/venv/x"),
    ],
)
def test_paths_of_the_guest_s_own_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        layouts.target(text, workdir="/")


def test_only_what_is_needed_is_bound(tmp_path: Path) -> None:
    """Shared directories, and those in which a volume or the working directory will be, are not covered."""
    for path in ("root/lib/a.py", "data/x/1", "data/y/2", "etc/app.conf", "srv/app/code/3", "srv/app/4"):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    bound = {inside: source for source, inside in layouts.binds(tmp_path, split=["/data/y/volume", "/srv/app"])}
    assert bound.pop(layouts.VENV) == tmp_path / "venv" / "opt/image/venv"
    assert bound.pop(layouts.NPM_PREFIX) == tmp_path / "npm" / "opt/image/npm"
    assert sorted(bound) == ["/data/x", "/data/y/2", "/etc/app.conf", "/root/lib", "/srv/app/4", "/srv/app/code"]
    assert all(source == tmp_path / "root" / inside.lstrip("/") for inside, source in bound.items())
