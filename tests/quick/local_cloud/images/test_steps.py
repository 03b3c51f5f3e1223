"""Layers for this machine's own system: what only a shell or a root of its own does right is left to these."""

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base import host
from workbench.local_cloud.images.dockerfile import NeedsRootError, RefusedError
from workbench.local_cloud.images.plans import Plan
from workbench.local_cloud.images.steps import MAX_DIRECTORIES, interpret


def read(*lines: str) -> Plan:
    commands = [f"FROM python:{host.OWN_PYTHON}-slim", *lines]
    return interpret(api_pb2.Image(dockerfile_commands=commands), {}, secrets={})


@pytest.mark.parametrize(
    "line",
    [
        "PIP_INDEX_URL=https://private/simple pip install mypkg",
        'CMAKE_ARGS="-D X=1" pip install x',
        "V=1.0 && pip install zzz==$V",
        "pip install zzz # do not update",
        "pip install zzz # don't update",
        "pip install $PKGS",
        "pip install $PATTERN",
        "pip install $EMPTY zzz",
        "mkdir -p $HOME/data",
        'mkdir -p "$PWD/data"',
        "mkdir -p ~/data",
        "mkdir -m 700 /opt/x",
        "mkdir ../x",
    ],
)
def test_what_a_shell_reads_otherwise_is_given_to_a_shell(line: str) -> None:
    with pytest.raises(NeedsRootError):
        read('ENV PKGS="aaa bbb" PATTERN=a* EMPTY=""', f"RUN {line}")


@pytest.mark.parametrize("text", ["[]", "[ ]", "--mount=type=cache,target=/c []", ""])
def test_a_step_without_a_command_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="RUN needs a command"):
        read(f"RUN {text}")


def test_a_network_is_had_left_out_or_refused() -> None:
    assert read("RUN --network=default mkdir /x").config.directories == ("/x",)
    with pytest.raises(NeedsRootError):
        read("RUN --network=none mkdir /x")
    with pytest.raises(RefusedError, match="RUN --network=host is not implemented") as caught:
        read("RUN --network=host mkdir /x")
    assert not isinstance(caught.value, NeedsRootError)


def test_what_every_shell_reads_alike_needs_none() -> None:
    plan = read("ENV D=/opt/x", "RUN mkdir -pv $D '/opt/~' /opt/a#b \"$D/y\" && rm -rf ~/.cache/pip")
    assert plan.config.directories == ("/opt/a#b", "/opt/x", "/opt/x/y", "/opt/~")


@pytest.mark.parametrize(
    "lines",
    [
        ["COPY --from=ghcr.io/astral-sh/uv:latest /uv /usr/local/bin/uv"],
        ["COPY --from=ghcr.io/astral-sh/uv:latest /uv /uvx /.uv/"],
        ["WORKDIR .."],
        ["COPY x ../y"],
        ["WORKDIR /" + "x" * 1100],
        [f"WORKDIR /opt/{number}" for number in range(MAX_DIRECTORIES + 1)],
    ],
)
def test_what_this_machine_s_system_cannot_hold_gets_a_root_of_its_own(lines: list[str]) -> None:
    with pytest.raises(NeedsRootError):
        read(*lines)
    assert read("COPY --chmod=755 --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv").steps == read().steps


def test_the_environment_has_names_of_any_kind_and_a_byte_order_mark_is_no_text() -> None:
    commands = [f"\ufeffFROM python:{host.OWN_PYTHON}-slim", "ENV spring.x=a-b A-B='c d'"]
    plan = interpret(api_pb2.Image(dockerfile_commands=commands), {}, secrets={})
    assert plan.config.env == {"spring.x": "a-b", "A-B": "c d"}
    for line in ("ENV 'a b'=c", "ENV =c"):
        with pytest.raises(RefusedError):
            read(line)
