"""What configures pip is given to uv by lines of a shell, which change nothing else of a step."""

import subprocess
from pathlib import Path

import pytest

from workbench.local_cloud.images.pip_settings import FOR_UV

SHOW = "printf '%s|' \"$@\"; echo; env"


def through(*words: str, cwd: Path | None = None, **env: str) -> tuple[list[str], dict[str, str]]:
    """The words and the variables that uv gets for a call of pip."""
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", FOR_UV + SHOW, "pip", *words],
        env={"PATH": "/usr/bin:/bin", **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    return first.split("|")[:-1], {name: found[name] for name in found if name not in ("PATH", "PWD", "_", "SHLVL")}


@pytest.mark.parametrize("yes", ["1", "true", "yes", "on", "On"])
@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("install x", "install --no-index x"),
        ("-q install -r a -- x", "-q install --no-index -r a -- x"),
        ("uninstall -y x", "uninstall -y x"),
        ("show installer", "show installer"),
        ("show install", "show install"),
        ("--version", "--version"),
        ("install install", "install --no-index install"),
        ("--cache-dir /c install x", "--cache-dir /c install --no-index x"),
        ("--python 3.11 uninstall install", "--python 3.11 uninstall install"),
        ("-- install", "-- install"),
    ],
)
def test_an_index_is_left_out_where_pip_would_ask_one(words: str, given: str, yes: str) -> None:
    found, env = through(*words.split(), PIP_NO_INDEX=yes)
    assert found == given.split()
    assert env == {"PIP_NO_INDEX": yes}


def test_words_stay_as_they_are() -> None:
    words = ["install", "a b", "*", "", "$HOME", "it's", "x>=1"]
    assert through(*words, PIP_NO_INDEX="1")[0] == ["install", "--no-index", *words[1:]]
    assert through(*words, PIP_NO_INDEX="0")[0] == words
    assert through(*words)[0] == words
    assert through(PIP_NO_INDEX="1")[0] == [""]  # what printf makes of no word


def test_variables_of_a_step_are_its_own() -> None:
    """Whatever their names are; an empty one of uv's is as none."""
    own = {"name": "mine", "left": "1", "word": "2", "PIP_NO_INDEX": "1"}
    assert through("install", "x", **own)[1] == own
    assert through("install", "x", UV_INDEX_URL="", UV_CONSTRAINT="")[1] == {}


def test_places_of_packages_are_split_at_blanks_and_are_no_patterns(tmp_path: Path) -> None:
    for name in ("wheels-1", "wheels-2"):
        (tmp_path / name).mkdir()
    _, env = through("install", "x", cwd=tmp_path, PIP_FIND_LINKS="  wheels-*   -n /b\\n ")
    assert env["UV_FIND_LINKS"] == "wheels-*,-n,/b\\n"
    assert through("install", "x", PIP_FIND_LINKS="/a", UV_FIND_LINKS="/b")[1]["UV_FIND_LINKS"] == "/b"


def test_what_uv_is_told_itself_wins() -> None:
    pip = {"PIP_INDEX_URL": "https://a", "PIP_EXTRA_INDEX_URL": "https://b https://c", "PIP_TRUSTED_HOST": "a"}
    pip |= {"PIP_CONSTRAINT": "/c.txt", "PIP_CERT": "/ca.pem"}
    uv = {"UV_INDEX_URL": "https://a", "UV_EXTRA_INDEX_URL": "https://b https://c", "UV_INSECURE_HOST": "a"}
    uv |= {"UV_CONSTRAINT": "/c.txt", "SSL_CERT_FILE": "/ca.pem"}
    assert through("install", "x", **pip)[1] == {**pip, **uv}
    own = {"UV_DEFAULT_INDEX": "https://d", "UV_INDEX": "https://e", "SSL_CERT_FILE": "/own.pem"}
    found = through("install", "x", **pip, **own)[1]
    assert found == {**pip, **own, "UV_INSECURE_HOST": "a", "UV_CONSTRAINT": "/c.txt"}
