"""A machine that cannot isolate sandboxes is told why, and which command changes that."""

from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.diagnosis import diagnose, explain

UID_MAP = "bwrap: setting up uid map: Permission denied"


def machine(root: Path, **files: str) -> Path:
    """What a machine's kernel tells, as files below a directory; `__` stands for a slash."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (
            {"proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1\n"},
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            {"proc__sys__kernel__unprivileged_userns_clone": "0\n"},
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        ({"proc__sys__user__max_user_namespaces": "0\n"}, "sudo sysctl -w user.max_user_namespaces=15000"),
        ({"run__.containerenv": ""}, "--security-opt systempaths=unconfined"),
        ({"proc__1__cgroup": "0::/system.slice/docker-12ab.scope\n"}, "--security-opt seccomp=unconfined"),
        ({}, "sudo dmesg"),
    ],
    ids=["apparmor", "clone", "none allowed", "podman", "docker", "unknown"],
)
def test_a_refusal_is_explained_by_what_the_kernel_tells(tmp_path: Path, files: dict[str, str], command: str) -> None:
    """The same words of bubblewrap have many causes; only the one that holds here is named."""
    found = diagnose(UID_MAP, root=machine(tmp_path, **files))
    assert command in found.fix
    assert found.reason.endswith(f"({UID_MAP})")
    assert str(found) == f"{found.reason}. {found.fix}"


def test_settings_that_allow_namespaces_are_not_blamed(tmp_path: Path) -> None:
    """A setting that is there with a good value, or cannot be read, is not the cause."""
    root = machine(
        tmp_path,
        proc__sys__kernel__apparmor_restrict_unprivileged_userns="0\n",
        proc__sys__kernel__unprivileged_userns_clone="1\n",
        proc__sys__user__max_user_namespaces="nonsense",
        proc__1__cgroup="0::/init.scope\n",
    )
    assert "sysctl" not in str(diagnose(UID_MAP, root=root))


def test_two_causes_at_once_are_both_named(tmp_path: Path) -> None:
    """In a container on Ubuntu 24.04 one fix alone does not help."""
    files = {"proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1", "run__.containerenv": ""}
    root = machine(tmp_path, **files)
    found = diagnose("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", root=root)
    assert "AppArmor" in found.reason
    assert "; this container" in found.reason
    assert "sysctl" in found.fix
    assert "--privileged" in found.fix


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("bwrap: Unknown option --disable-userns", "needs 0.8 or newer"),
        ("[Errno 13] Permission denied: '/root/bin/bwrap'", "may not run bubblewrap"),
        ("the sandbox's agent did not answer in time", "Sandboxes do not start here: the sandbox's agent"),
        ("bwrap: No permissions to create a new namespace,\nlikely because\n", "namespace, likely because)"),
    ],
)
def test_what_was_said_is_in_the_one_line_that_explains(said: str, told: str) -> None:
    """Whoever reads it in a log sees both."""
    assert told in explain(said)
    assert "\n" not in explain(said)
