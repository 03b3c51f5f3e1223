"""A machine that cannot isolate sandboxes is told why, and which command changes that."""

import os
from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.engine.diagnosis import diagnose, explain
from workbench.local_cloud.sandboxes.engine.host_users import UIDS_VARIABLE

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs sandboxes as other users")
@pytest.mark.parametrize(
    ("uids", "gids", "groups", "reason", "fix"),
    [
        ("0 1000 1", "0 1000 1", "deny", "a single id that may not change its groups", "Run it outside"),
        ("0 1000 1", "0 1000 1", "allow", "a single id, and", "Run it outside"),
        ("0 0 4294967295", "0 0 4294967295", "deny", "may not change its groups", "Run it outside"),
        ("0 100000 65536", "0 100000 65536", "allow", "no users 210000 to 259999", "UIDS=1000-65535"),
        ("0 1000 1\n1 100000 300000", "0 1000 1\n1 100000 65536", "allow", "no users", "UIDS=1000-65536"),
    ],
)
def test_a_namespace_without_the_users_of_sandboxes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uids: str, gids: str, groups: str, reason: str, fix: str
) -> None:
    monkeypatch.delenv(UIDS_VARIABLE, raising=False)
    root = machine(tmp_path, proc__self__uid_map=uids, proc__self__gid_map=gids, proc__self__setgroups=groups)
    found = diagnose("[Errno 1] Operation not permitted: '/'", root=root)
    assert reason in found.reason
    assert fix in found.fix


@pytest.mark.parametrize("ids", ["0 0 4294967295", "", "nonsense"])
def test_a_namespace_with_all_users_is_no_cause(tmp_path: Path, ids: str) -> None:
    root = machine(tmp_path, proc__self__uid_map=ids, proc__self__gid_map=ids, proc__self__setgroups="allow")
    assert "dmesg" in diagnose("[Errno 1] Operation not permitted: '/'", root=root).fix
