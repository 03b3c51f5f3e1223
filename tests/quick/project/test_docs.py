"""The documentation is true: what is made of the code is as the code is, and whatever a page names is there."""

import importlib
import re
from pathlib import Path

import pytest

import workbench
from modal_app.contract.errors import ErrorCode
from tests.support.docs import AGAIN, pages, pictures
from tests.support.docs.made import DOCS, PICTURES, files
from tests.support.docs.pages import PAGES, README, UnknownError, check_command
from tests.support.docs.reference import PAGES as MADE
from tests.support.paths import ROOT
from workbench import Run, Workbench
from workbench.pytest_plugin import settings as pytest_settings

SOURCES = {
    path: path.read_text()
    for room in ("modal_app", "workbench", "tests")
    for path in (ROOT / room).rglob("*.py")
    if "docs" not in path.parts and path != Path(__file__)
}
CODE = "\n".join(SOURCES.values())
PYTHON = ["workbench", "run", "python", "-c", "print(1); x = 2 | 3", "-t", "http://a:1"]
each_page = pytest.mark.parametrize("page", PAGES, ids=pages.name)


def test_what_is_made_of_the_code_is_as_the_code_is() -> None:
    """Docstrings, signatures, help, tables and pictures: one command writes all of them."""
    old = [path.name for path, text in files().items() if not path.exists() or path.read_text() != text]
    assert old == [], f"these pages are not what the code says: write them anew with `{AGAIN}`"


def test_every_public_name_and_every_command_has_its_place() -> None:
    names = (DOCS / "reference-api.md").read_text()
    assert [name for name in (*workbench.__all__, "open") if f"\n## `{name}`\n" not in names] == []
    for method in ("launch", "deploy", "volume", "runs", "faults"):
        assert f"### `Workbench.{method}`" in names
    commands = (DOCS / "reference-cli.md").read_text()
    for command in ("demo", "run python", "cloud fault add", "runs verify", "volume blame", "contract"):
        assert f"\n## workbench {command}\n" in commands
    assert "\x1b" not in commands


@pytest.mark.parametrize("columns", ["40", "300"])
def test_a_terminal_changes_nothing_of_the_reference(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files()
    for name, value in (("COLUMNS", columns), ("FORCE_COLOR", "1"), ("TERMINAL_WIDTH", columns), ("LANG", "C")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORKBENCH_TARGET", "modal")
    assert files() == before


@each_page
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    for words in pages.command_lines(page):
        check_command(words)
    for words in pages.named_commands(page):
        check_command(words, whole=False)


@pytest.mark.parametrize(
    "line",
    [
        "workbench fly",
        "workbench cloud fly",
        "workbench run python --colour red",
        "workbench --colour",
        "workbench runs list --outcomes error",
        "modal app fly",
        "workbench contract fly",
        "workbench cloud start --port fly",
        "workbench runs show",
        "modal deploy --colour x.py",
    ],
)
def test_an_unknown_command_or_option_is_found(line: str) -> None:
    with pytest.raises(UnknownError, match=r"fly|colour|outcomes|RUN_ID"):
        check_command(line.split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\nuv run workbench deploy    # a comment\n```\n", [["workbench", "deploy"]]),
        (
            '```sh\neval "$(uv run workbench cloud env)"\n```\n',
            [["workbench", "cloud", "env"], ["eval", "$(uv run workbench cloud env)"]],
        ),
        ("```sh\nuv run workbench run python -c 'print(1); x = 2 | 3' -t http://a:1\n```\n", [PYTHON]),
        (
            "```sh\ncurl -d '{\n  \"a\": 1}' \\\n  url && uv run modal app list\n```\n",
            [["curl", "-d", '{\n  "a": 1}', "url"], ["modal", "app", "list"]],
        ),
        ("```sh\npip install uv && uv run workbench fly\n```\n", [["pip", "install", "uv"], ["workbench", "fly"]]),
        ("```sh\nA=1 uv run workbench test -- -k x\n```\n", [["workbench", "test", "--", "-k", "x"]]),
        ("```sh\nuv run workbench contract errors > a.json\n```\n", [["workbench", "contract", "errors"]]),
        ("```yaml\nsteps:\n  - run: uv run workbench fly\n```\n", [["workbench", "fly"]]),
        ("```python\nworkbench fly\n```\n", []),
    ],
)
def test_commands_are_found_however_they_stand(text: str, found: list[list[str]], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(pages.command_lines(page)) == found


@pytest.mark.parametrize("page", [*PAGES, *(DOCS / name for name in MADE)], ids=pages.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in pages.links(page):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in pages.anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in pages.links(README)}
    assert {path for path in (*PAGES, *DOCS.glob("*.md")) if path != README} - linked == set()


@each_page
def test_every_path_of_the_project_that_a_page_names_is_there(page: Path) -> None:
    for text in pages.inline(page):
        path = re.sub(r"NN_name|NAME", "*", text.rstrip("/"))
        if re.fullmatch(r"(modal_app|workbench|tests|notebooks|findings|\.github|\.ci)(/[\w.*-]+)+", path):
            assert list(ROOT.glob(path)), text


@each_page
def test_every_name_in_a_sentence_exists(page: Path) -> None:
    """Variables of the environment, Python names, options: what `check_names` finds."""
    check_names(page.read_text(), pages.inline(page))


@pytest.mark.parametrize(
    "text",
    [
        "`WORKBENCH_COLOUR`",
        "`workbench.fly()`",
        "`wb.fly`",
        "`run.fly()`",
        "`Workbench.fly`",
        "`Project.fly()`",
        "`ProjectVolume.fly`",
        "`--colour`",
        "`-k red --colour`",
    ],
)
def test_a_name_that_there_is_not_is_found(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Give it {text}.")
    with pytest.raises(AssertionError, match=r"fly|colour|COLOUR"):
        check_names(text, pages.inline(page))


def pytest_options() -> set[str]:
    """The options that the plugin adds to pytest."""
    return {f"--{name.replace('_', '-')}" for name in pytest_settings.HELP}


# What pages call the objects that they speak of, and options of other programs that they name.
CALLED = {"wb": Workbench, "run": Run}
OF_OTHERS = {"--privileged", "--mount", *pytest_options()}


def check_names(text: str, inline: list[str]) -> None:
    settings = (DOCS / "reference-contract.md").read_text()
    for variable in set(re.findall(r"\bWORKBENCH_[A-Z0-9_]*[A-Z0-9]\b", text)) - {"WORKBENCH_URL"}:
        assert variable in CODE or f"`{variable}`" in settings, variable
    for code in inline:
        for name in re.findall(r"^workbench\.(\w+)", code):
            assert hasattr(workbench, name) or importlib.util.find_spec(f"workbench.{name}"), code
        for thing, name in re.findall(r"^(\w+)\.(\w+)\b(?!\.\w)", code):
            kind = CALLED.get(thing) if thing in CALLED else getattr(workbench, thing, None)
            if isinstance(kind, type) and not code.endswith((".zip", ".json", ".py")):
                assert hasattr(kind, name) or name in getattr(kind, "model_fields", ()), code
        for option in re.findall(r"(?:^|\s)(--?[a-z][\w-]*)", code):
            if not re.match(r"[a-z]", code):  # else it stands behind its command, where it is checked
                assert option in pages.options() | OF_OTHERS | {"-k"}, code


def test_the_terms_of_the_glossary_are_used_and_told_once() -> None:
    text = (DOCS / "concepts.md").read_text()
    _, _, glossary = text.partition("## Glossary")
    terms = re.findall(r"^\| \*\*([^*]+)\*\* \|", glossary, re.MULTILINE)
    assert len(terms) == len(set(terms)) == 20
    assert terms == sorted(terms)
    everywhere = "\n".join(page.read_text() for page in PAGES).replace(glossary, "").lower()
    assert [term for term in terms if term.lower() not in everywhere] == []


def test_the_way_of_a_request_names_each_room_once() -> None:
    """Down to the sandbox and back: what is told twice, or is no room, has been moved."""
    text = (DOCS / "concepts.md").read_text()
    down, _, rest = text.partition("**Down, from")[2].partition("**Back, from")
    back = rest.partition("**The end.**")[0]
    for way, door in ((down, ["modal_app/web.py"]), (back, ["modal_app/stream.py"])):
        rooms = re.findall(r"\*\*`(\w+)`\*\*", way)
        assert len(set(rooms)) == len(rooms) >= 4
        assert all((ROOT / "modal_app" / room / "__init__.py").exists() for room in rooms)
        assert all(path in way for path in door)


def test_every_notebook_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "ci.md").read_text(), re.MULTILINE)
    assert rows == sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_the_events_of_the_log_are_what_the_code_logs() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 12
    assert [name for name in names if f'"{name}"' not in CODE] == []


def test_the_symptoms_of_the_troubleshooting_are_what_the_code_says() -> None:
    """A message that nobody writes any more helps nobody who looks for his own."""
    found = [
        text
        for line in (DOCS / "troubleshooting.md").read_text().splitlines()
        if line.startswith("### ")
        for text in re.findall(r"`([^`]+)`", line)
    ]
    assert len(found) >= 25
    known = {str(code) for code in ErrorCode}
    said = re.sub(r'"\s*\n\s*f?"', "", CODE)  # strings that stand in several lines
    missing = [
        text
        for text in found
        if text not in known and not all(part.strip() in said for part in text.split("…") if part.strip())
    ]
    assert missing == []


# --- pictures ----------------------------------------------------------------------------------------------------


def test_every_picture_has_its_text_and_is_shown() -> None:
    shown = "".join(page.read_text() for page in PAGES)
    assert {path.stem for path in PICTURES.glob("*.svg")} == {path.stem for path in PICTURES.glob("*.txt")}
    for path in PICTURES.glob("*.svg"):
        assert path.name in shown
        text = path.read_text()
        assert text.startswith("<svg ")
        assert "<title>" in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("box a 0 0 10 10 ours A", "line 1: a picture begins with"),
        ("picture 10 10 T\ncircle a", "line 2"),
        ("picture 10 10 T\nbox a 0 0 wide 10 ours A", "line 2"),
        ("picture 10 10 T\nbox a 0 0 1 1 loud A", "line 2"),
        ("picture 10 10 T\nbox a 0 0 1 1 ours A\narrow a.left b.right", "line 3"),
        ("picture 10 10 T\nbox a 0 0 1 1 ours A\narrow a.middle a.right", "line 3"),
        ("sequence 100 T\nactor a A\nsay a b words", "line 3.*there is no actor `b`"),
        ("sequence 100 T\nactor a A\nactor b B\nsay a b", "line 4"),
    ],
)
def test_a_line_that_cannot_be_drawn_is_named(text: str, why: str) -> None:
    with pytest.raises(pictures.PictureError, match=why):
        pictures.draw(text)


def test_words_of_a_picture_are_words() -> None:
    drawn = pictures.draw('picture 10 10 A & B\nbox a 0 0 10 10 ours <script> | "x"')
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn
