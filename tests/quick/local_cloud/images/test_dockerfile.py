"""Dockerfile text is taken apart as Docker and a shell would, as far as it goes."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.local_cloud.images.dockerfile import (
    MAX_INSTRUCTIONS,
    RefusedError,
    argument_list,
    commands,
    expand,
    instructions,
    pairs,
    words,
)


def test_lines_are_joined_and_comments_dropped() -> None:
    lines = ["# escape", "run a \\", "  # between", "  b \\", "", "c", "\tENV\tx=1", "copy"]
    assert [str(each) for each in instructions(lines)] == ["RUN a b c", "ENV x=1", "COPY "]


@pytest.mark.parametrize("line", ["RUN <<EOF", "COPY <<-'EOF' /x", "RUN cat <<X"])
def test_here_documents_are_refused(line: str) -> None:
    with pytest.raises(RefusedError, match="Here-documents"):
        instructions([line])


def test_a_layer_is_bounded() -> None:
    with pytest.raises(RefusedError, match="at most"):
        instructions(["ENV a=b"] * (MAX_INSTRUCTIONS + 1))
    with pytest.raises(RefusedError, match="at most"):
        instructions(["ENV a=" + "b" * (1 << 20)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A-${A}-$B", "1-1-"),
        ("${B:-x} ${A:-x} ${A:+y} ${B:+y}", "x 1 y "),
        (r"\$A $", "$A $"),
        ("$(id) ${", "$(id) ${"),
    ],
)
def test_variables_are_expanded(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


@given(value=st.text(st.characters(blacklist_characters="\n\r\x00", blacklist_categories=["Cs"])))
def test_what_the_sdk_quotes_arrives_as_it_was(value: str) -> None:
    assert pairs(f"NAME={shlex.quote(value)}", {"HOME": "wrong"}) == [("NAME", value)]
    assert commands(f"pip install {shlex.quote(value)} && true", {"HOME": "wrong"})[0] == ["pip", "install", value]


@given(text=st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for read in (commands, pairs, words):
        try:
            read(text, {"A": "1"})
        except RefusedError:
            continue


def test_both_forms_of_env_are_read() -> None:
    assert pairs("A=1 B=\"two $C\" D='$C'", {"C": "3"}) == [("A", "1"), ("B", "two 3"), ("D", "$C")]
    assert pairs("A one two", {}) == [("A", "one two")]


@pytest.mark.parametrize("text", ["a > b", "a | b", "a & b", "a || b", "(a)", "a < b", "a $(b)", "a `b`", "foo>=1"])
def test_shell_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="shell"):
        commands(text, {})


def test_commands_are_split_outside_of_quotes_only() -> None:
    assert commands("--mount=type=cache,target=/x a 'b && c' \"d;e\" && f; g\\ h", {}) == [
        ["a", "b && c", "d;e"],
        ["f"],
        ["g h"],
    ]
    assert commands('["a", "b > c"]', {}) == [["a", "b > c"]]


def test_the_json_form_is_told_from_the_other() -> None:
    assert argument_list('["a", "b"]') == ["a", "b"]
    assert argument_list('["a", 1]') is None
    assert argument_list("[ -f x ]") is None
