"""Names and notes: kept for every process of a user, refused whole when they are none, and never part of an archive."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modal_app.contract.errors import ContractError, ErrorCode
from workbench.runs.labels import MOST_FILTERS, NAME_CHARS, NOTE_CHARS, Labels, LabelsUnreadableError, RunLabel
from workbench.runs.project import Project
from workbench.widgets.projects import called, offered

RUN = "0b1f7a1e-3c8e-7d52-8a53-5a2f5d1f9a10"


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return Labels(tmp_path)


def test_a_project_has_one_name_and_a_name_one_project(labels: Labels, tmp_path: Path) -> None:
    shop, blog = Project.new(), Project.new()
    labels.name_project("shop", shop)
    labels.name_project(" blog ", blog)
    assert Labels(tmp_path).projects() == {"blog": blog, "shop": shop}
    assert labels.project("shop") == shop
    labels.name_project("store", shop)
    assert list(labels.projects()) == ["store", "blog"]
    labels.name_project("store", blog)
    assert labels.projects() == {"store": blog}
    assert labels.name_of(blog) == "store"
    assert labels.name_of(shop) == ""
    labels.forget_project("store")
    with pytest.raises(KeyError):
        labels.forget_project("store")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * (NAME_CHARS + 1), "\u202egnp", "tab\there", "\x1b[2J"])
def test_what_is_no_name_is_refused_and_changes_nothing(labels: Labels, name: str) -> None:
    project = Project.new()
    labels.name_project("kept", project)
    with pytest.raises(ContractError) as refused:
        labels.name_project(name, Project.new())
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(ContractError):
        labels.save_filter(name, {})
    assert labels.projects() == {"kept": project}
    assert labels.filters() == {}


@pytest.mark.parametrize(
    "project", [Project("half", "typed"), Project("", ""), Project("../..", Project.new().user_id)]
)
def test_a_project_that_is_none_gets_no_name(labels: Labels, project: Project) -> None:
    with pytest.raises(ContractError, match="UUID"):
        labels.name_project("mine", project)
    assert labels.projects() == {}


def test_a_run_has_a_name_and_a_note_until_both_are_empty(labels: Labels) -> None:
    labels.label_run(RUN, name="baseline", note="before the fix\nof the loop")
    assert labels.runs() == {RUN: RunLabel(name="baseline", note="before the fix\nof the loop")}
    with pytest.raises(ContractError):
        labels.label_run(RUN, note="x" * (NOTE_CHARS + 1))
    with pytest.raises(ContractError):
        labels.label_run("not a run", name="x")
    labels.label_run(RUN, note="the note alone")
    assert labels.runs()[RUN] == RunLabel(note="the note alone")
    labels.label_run(RUN)
    assert labels.runs() == {}


def test_filters_are_saved_by_name(labels: Labels) -> None:
    labels.save_filter("failures", {"outcome": "error", "group": "reason"})
    assert labels.filters()["failures"].outcome == "error"
    for wrong in ({"outcome": 3}, {"unknown": "x"}, {"text": "x" * 5000}):
        with pytest.raises(ContractError):
            labels.save_filter("failures", wrong)
    assert labels.filters()["failures"].group == "reason"
    for number in range(MOST_FILTERS - 1):
        labels.save_filter(f"number {number}", {})
    with pytest.raises(ContractError, match="forget one first"):
        labels.save_filter("one too many", {})
    labels.forget_filter("failures")
    labels.forget_filter("failures")
    assert len(labels.filters()) == MOST_FILTERS - 1


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"projects": {"shop": {"user_id": "x", "project_id": "y"}}}', '{"more": 1}', "\xff"]
)
def test_a_file_that_is_not_ours_is_told_and_stays(labels: Labels, tmp_path: Path, text: str) -> None:
    path = tmp_path / "names" / "labels.json"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabelsUnreadableError, match=r"labels\.json"):
        labels.projects()
    with pytest.raises(LabelsUnreadableError):
        labels.name_project("shop", Project.new())
    assert path.read_bytes() == text.encode("latin-1")
    one = Project.new()
    assert [found["name"] for found in offered([one], labels)] == [""]  # a page goes on


def test_names_given_at_one_time_are_all_kept(tmp_path: Path) -> None:
    """As by several notebooks."""
    given = {f"project {number}": Project.new() for number in range(40)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: Labels(tmp_path).name_project(*one), given.items()))
    assert Labels(tmp_path).projects() == given


def test_a_typed_name_means_its_project_or_names_this_one_or_begins_another(labels: Labels) -> None:
    first = Project.new()
    assert called("shop", first, labels) == first
    second = called("blog", first, labels)
    assert second != first
    assert called(" shop ", second, labels) == first
    assert labels.projects() == {"blog": second, "shop": first}
    other = Project.new()
    assert [one["name"] for one in offered([other, first], labels)] == ["blog", "shop", ""]
