"""What a file is and how it can be looked at; names and contents are a job's."""

import re

import pytest

from workbench.files.preview import MAX_WHOLE_BYTES, PREVIEW_BYTES, Preview, highlighted, preview


def looked_at(path: str, data: bytes) -> Preview:
    return preview(path, data, len(data))


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("a.txt", b"text", "text"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "image"),
        ("no-suffix", b"\xff\xd8\xff\xe0", "image"),
        ("lies.png", b"text", "text"),
        ("lies.txt", b"\x7fELF", "none"),
        ("a.bin", b"a\0b", "none"),
        ("a.json", b"{}", "json"),
        ("broken.json", b"{", "text"),
        ("a.html", b"<p>", "page"),
        ("a.SVG", b"<svg/>", "page"),
        ("empty", b"", "none"),
    ],
)
def test_the_kind_follows_the_bytes(path: str, data: bytes, kind: str) -> None:
    assert looked_at(path, data).kind == kind


@pytest.mark.parametrize("path", ["a.py", "a.json", "a.html", "a.unknown", "a.md", "a.yaml", "a.diff"])
@pytest.mark.parametrize(
    "text", ["", "x", "\n", "\n\nx\n", "def f():\n\treturn 'é'\r\n", '{"a": [1, "b"]}', "- a\n+ b\n"]
)
def test_highlighting_loses_nothing(path: str, text: str) -> None:
    """Tokens are pieces of the text as it is: put together again they are the text."""
    assert "\n".join("".join(piece for _, piece in line) for line in highlighted(path, text)) == text


def test_tokens_have_classes_where_the_name_is_known() -> None:
    assert ("keyword", "def") in highlighted("a.py", "def f(): pass")[0]
    assert highlighted("a.made-up", "def f(): pass") == ((("", "def f(): pass"),),)
    assert highlighted("a.py", "x" * 3000) == ((("", "x" * 3000),),)


def test_a_large_file_is_shown_from_its_beginning_and_says_so() -> None:
    text = preview("a.log", b"x" * PREVIEW_BYTES, 10 * PREVIEW_BYTES)
    assert (text.kind, len(text.text), text.note) == ("text", PREVIEW_BYTES, "the first 64.0 KiB of 640.0 KiB")
    image = preview("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100), MAX_WHOLE_BYTES + 1)
    assert (image.kind, image.data) == ("none", b"")
    assert "download it" in image.note
    assert preview("a.html", b"<p>", MAX_WHOLE_BYTES + 1).kind == "text"


def test_json_keeps_its_numbers_and_its_twice_told_keys() -> None:
    root = looked_at("a.json", b'{"a": 12345678901234567890, "a": 1.50, "b": [null, "\\u001b"]}').root
    assert root is not None
    first, second, last = root["children"]
    assert [(one["key"], one["text"]) for one in (first, second)] == [("a", "12345678901234567890"), ("a", "1.50")]
    assert [one["text"] for one in last["children"]] == ["null", '"\\u001b"']


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[" * 200 + b"]" * 200, b"[" + b"1," * 6000 + b"1]", b"\xff"])
def test_json_that_is_too_much_is_text(data: bytes) -> None:
    assert looked_at("a.json", data).kind == "text"


def test_a_page_cannot_leave_its_frame() -> None:
    """Whatever it says stays in the attribute of the inner frame: no quote of its own ends it."""
    guest = "\"'><script>alert(1)</script><iframe></iframe><IFrame src=//x></iframe>&quot;<embed><object>"
    page = looked_at("a.html", guest.encode()).page
    assert page.count("<script") == 0
    assert page.count("<iframe") == page.count("</iframe>") == 1
    assert not re.search("&lt;/?(iframe|embed|object)", page, re.IGNORECASE)  # it would be connected to
    assert page.index("Content-Security-Policy") < page.index("srcdoc")
    assert 'sandbox=""' in page
