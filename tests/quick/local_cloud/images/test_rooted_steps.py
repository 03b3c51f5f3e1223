"""Layers for a root file system of their own are read before a base is there, and refuse only what stays wrong."""

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.plans import CopyFrom, ImageConfig, MakeDirectory, Plan, Pull
from workbench.local_cloud.images.rooted_steps import interpret


def read(*commands: str, base: ImageConfig | None = None) -> Plan:
    parents = {"base": base} if base is not None else {}
    return interpret(api_pb2.Image(dockerfile_commands=commands), parents, secrets={})


@pytest.mark.parametrize(
    "line",
    [
        "USER $MAMBA_USER",
        "COPY --chown=$MAMBA_USER:$MAMBA_USER a /a",
        "COPY app.py ${LAMBDA_TASK_ROOT}",
        "WORKDIR ${APP_DIR:?must}",
    ],
)
def test_a_variable_of_a_base_that_has_yet_to_be_pulled_is_not_refused(line: str) -> None:
    assert read("FROM example.com/a:1", line).steps[0] == Pull("example.com/a:1")
    assert Pull("example.com/a:1") in read("FROM example.com/a:1 AS a", "FROM a", line).steps
    with pytest.raises(RefusedError):
        read("FROM base", line, base=ImageConfig(layers=("layer",)))
    with pytest.raises(RefusedError):
        read("FROM scratch", line)


def test_what_no_variable_mends_is_refused_before_the_base_is_pulled() -> None:
    for line in ("USER 'a b'", "RUNS $A", "COPY --from=5 a $A"):
        with pytest.raises(RefusedError):
            read("FROM example.com/a:1", line if "$" not in line else line.replace("$A", "a"))


def test_a_step_without_a_command_is_refused() -> None:
    with pytest.raises(RefusedError, match="RUN needs a command"):
        read("FROM scratch", "RUN []")


def test_a_stage_has_the_variables_of_the_stage_that_it_begins_with() -> None:
    plan = read("FROM scratch AS build", "ENV D=/app", "WORKDIR inner", "FROM build", "WORKDIR $D", "WORKDIR x")
    assert [step.path for step in plan.steps if isinstance(step, MakeDirectory)] == ["/inner", "/app", "/app/x"]


def test_numbers_of_stages_and_lists_of_any_length_are_read() -> None:
    plan = read("FROM scratch", "FROM scratch", "COPY --from=0 a /a", "CMD " + "[" * 100_000)
    assert [step.origin for step in plan.steps if isinstance(step, CopyFrom)] == ["0"]
    assert plan.config.cmd == ("/bin/sh", "-c", "[" * 100_000)
    with pytest.raises(RefusedError, match="no such stage"):
        read("FROM scratch", "COPY --from=" + "9" * 5000 + " a /a")
