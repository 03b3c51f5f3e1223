"""A failed program's own words: its last exception or error, whatever it printed around it."""

import subprocess
import sys

import pytest

from modal_app.actions.last_words import TAIL_BYTES, Tail, last_words
from modal_app.sandboxes.guest_text import MAX_CHARS


def said_by(code: str) -> str:
    """What Python itself writes to stderr when this program fails."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode
    return ended.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(n):\n  if n: f(n - 1)\n  raise ValueError('the reason')\nf(5)", "ValueError: the reason"),
        ("try: 1/0\nexcept ZeroDivisionError as e: raise RuntimeError('second') from e", "RuntimeError: second"),
        ("try: 1/0\nfinally: {}['missing']", "KeyError: 'missing'"),
        ("import json; json.loads('{')", "json.decoder.JSONDecodeError: Expecting property name enclosed in double "),
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise Exception", "Exception"),
        ("raise ValueError('first line\\nValue: second line')", "ValueError: first line"),
        ("class Odd(Exception): pass\nraise Odd('mine')", "Odd: mine"),
        ("raise SystemExit('no such customer: 12')", "no such customer: 12"),
        ("import sys; sys.exit(3)", ""),
        ("import sys; print('a'); print('b\\n\\n', file=sys.stderr); sys.exit(3)", "b"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_python(code: str, words: str) -> None:
    assert last_words(said_by(code)).startswith(words)
    assert bool(last_words(said_by(code))) == bool(words)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions are new in Python 3.11")
def test_of_a_group_the_last_exception_is_told() -> None:
    assert last_words(said_by("raise ExceptionGroup('two', [ValueError('one'), TypeError('other')])")).startswith(
        "ExceptionGroup: two (2 sub-exceptions)"
    )


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("fatal: not a git repository\n", "fatal: not a git repository"),
        ("hint: do this\nerror: pathspec 'x' did not match\n", "error: pathspec 'x' did not match"),
        ("/a.js:1\nthrow new Error('no')\n^\n\nError: no\n    at f (/a.js:1)\n\nNode.js v20.19.2\n", "Error: no"),
        (
            "Uncaught TypeError: x is not a function\n    at <anonymous>:1:1\n",
            "Uncaught TypeError: x is not a function",
        ),
        ("\x1b[31mValueError: red\x1b[0m\n", "ValueError: red"),
        ("bash: foo: command not found\n", "bash: foo: command not found"),
        ("", ""),
        ("\n \n", ""),
        ("Traceback (most recent call last):\n", "Traceback (most recent call last):"),
        ("Traceback (most recent call last):\n  File", "File"),
    ],
)
def test_other_programs(stderr: str, words: str) -> None:
    assert last_words(stderr) == words


def test_what_is_said_after_an_error_that_was_survived_is_told_too() -> None:
    said = said_by(
        "import logging, sys\ntry: 1/0\nexcept ZeroDivisionError: logging.exception('skipped')\nsys.exit('disk full')"
    )
    assert last_words(said) == "ZeroDivisionError: division by zero; its last line: disk full"


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "\x00\x1b]0;title\x07\r\u202e evil", "ValueError: " + "é" * 9999, "\n" * 9999]
)
def test_they_are_one_short_printable_line(text: str) -> None:
    words = last_words(text)
    assert len(words) <= MAX_CHARS * 6 + 40  # an escaped character takes up to ten
    assert all(one.isprintable() for one in words)


def test_only_the_end_is_kept() -> None:
    tail = Tail()
    for _ in range(100):
        tail.feed(b"noise\n" * 1000)
    tail.feed("Error: é".encode()[:-1])
    assert len(str(tail)) <= TAIL_BYTES
    assert last_words(str(tail)).startswith("Error: ")
