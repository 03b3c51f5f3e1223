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
    flags,
    instructions,
    pairs,
    word,
    words,
)


def test_lines_are_joined_and_comments_dropped() -> None:
    lines = ["# escape", "run a \\", "  # between", "  b \\", "", "c", "\tENV\tx=1", "copy"]
    assert [str(each) for each in instructions(lines)] == [
        "RUN a   b c",
        "ENV x=1",
        "COPY ",
    ]


def test_continued_lines_are_joined_as_they_are() -> None:
    assert [str(each) for each in instructions(["RUN ab\\", "cd \\  ", "", "  e", "RUN a\\\\", "RUN b \\"])] == [
        "RUN abcd   e",
        "RUN a\\\\",
        "RUN b",
    ]


def test_the_first_lines_may_choose_the_escape_character() -> None:
    lines = ["# syntax=docker/dockerfile:1", "# escape=`", "RUN a `", "  b\\", "ENV P=C:\\x` y"]
    run, env = instructions(lines)
    assert run.text == "a   b\\"
    assert pairs(env.text, {}, escape=env.escape) == [("P", "C:\\x y")]
    assert instructions(["", "# escape=`", "RUN a \\", "b"])[0].text == "a b"
    with pytest.raises(RefusedError, match="backslash or a backtick"):
        instructions(["# escape=x", "RUN a"])


def test_here_documents_belong_to_their_instruction() -> None:
    lines = [
        "RUN cat <<A 3<<-'B'",
        "# kept \\",
        "\tA",
        "A",
        "\t$X",
        "\tB",
        'copy <<"C D" /x',
        "C D",
        "run echo '<<E' <<<f",
    ]
    run, copy, last = instructions(lines)
    assert [(each.name, each.text, each.tabs, each.expands) for each in run.documents] == [
        ("A", "# kept \\\n\tA\n", False, True),
        ("B", "\t$X\n", True, False),
    ]
    assert run.documents[1].content() == "$X\n"
    assert [(each.name, each.content()) for each in copy.documents] == [("C D", "")]
    assert last.documents == ()


@pytest.mark.parametrize("line", ["RUN <<EOF", "COPY <<-'EOF' /x", "RUN cat <<X"])
def test_a_here_document_needs_an_end(line: str) -> None:
    with pytest.raises(RefusedError, match="has no end"):
        instructions([line, " EOF", "X "])


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
        ("${E-x}${E:-y}${B-z} ${E+x}${E:+y}", "yz x"),
        ("${B:-${A}${A:+<${C}>}} ${B:-$A}", "1<a/b/c.tar.gz> 1"),
        ("${C#*/} ${C##*/} ${C%.*} ${C%%.*}", "b/c.tar.gz c.tar.gz a/b/c.tar a/b/c"),
        ("${C/\\//-} ${C//[ab]/x} ${A?no} ${A!}", "a/b/c.tar.gz x/x/c.txr.gz 1 ${A!}"),
    ],
)
def test_variables_are_expanded(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "E": "", "C": "a/b/c.tar.gz"}) == expected


@pytest.mark.parametrize("text", ["${B:?must be set}", "${B?}", "${B:-" * 30 + "}" * 30, "$A" * 600_000])
def test_what_has_no_value_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        expand(text, {"A": "123"})


def test_words_are_split_as_docker_splits_them() -> None:
    variables = {"A": "1 2", "N": "x"}
    assert words('a\\ b \'c  $N\' "d \\"$N" ${M:-e f}$A', variables) == ["a b", "c  $N", 'd "x', "e f1 2"]
    assert words('["a $N", "b"]', variables) == ["a x", "b"]
    assert word("/a b/'c d'/$N", variables) == "/a b/c d/x"
    assert flags('--from=x --link --chown=a:b ["c d", "e"]') == (
        [("from", "x"), ("link", ""), ("chown", "a:b")],
        '["c d", "e"]',
    )


@given(value=st.text(st.characters(blacklist_characters="\n\r\x00", blacklist_categories=["Cs"])))
def test_what_the_sdk_quotes_arrives_as_it_was(value: str) -> None:
    assert pairs(f"NAME={shlex.quote(value)}", {"HOME": "wrong"}) == [("NAME", value)]
    assert commands(f"pip install {shlex.quote(value)} && true", {"HOME": "wrong"})[0] == ["pip", "install", value]


@given(text=st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for read in (commands, pairs, words, word, expand):
        try:
            read(text, {"A": "1"})
        except RefusedError:
            continue


def test_both_forms_of_env_are_read() -> None:
    assert pairs("A=1 B=\"two $C\" D='$C'", {"C": "3"}) == [("A", "1"), ("B", "two 3"), ("D", "$C")]
    assert pairs("A one\t'two  three' ", {}) == [("A", "one\ttwo  three")]
    for wrong in ("A", "A=1 B"):
        with pytest.raises(RefusedError):
            pairs(wrong, {})


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
