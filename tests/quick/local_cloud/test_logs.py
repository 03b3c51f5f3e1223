"""The log of an app keeps every row in order for a reader of any pace, and says how much it no longer has."""

import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.apps import app_logs as module
from workbench.local_cloud.apps.app_logs import PAGE_ROWS, AppLogs, LogRow, Origin, Wanted
from workbench.local_cloud.store.database import Database

OUT, ERR, INFO = api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR, api_pb2.FILE_DESCRIPTOR_INFO

EVERYTHING = Wanted()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[AppLogs]:
    database = Database(tmp_path / "cloud.sqlite")
    yield AppLogs(database)
    database.close()


def add(logs: AppLogs, *texts: str, app: str = "ap-1", fd: int = OUT, **origin: str) -> None:
    logs.append(app, texts, fd=fd, origin=Origin(**origin))


def whole(logs: AppLogs, wanted: Wanted = EVERYTHING, *, after: int = 0) -> list[LogRow]:
    found: list[LogRow] = []
    while rows := logs.after("ap-1", found[-1].entry if found else after, wanted):
        found += rows
    return found


def test_a_reader_that_is_far_behind_gets_every_row_in_order(logs: AppLogs) -> None:
    texts = [f"line {number}\n" for number in range(3 * PAGE_ROWS + 7)]
    for at in range(0, len(texts), 500):
        add(logs, *texts[at : at + 500])
        add(logs, "another app's\n", app="ap-2")
    assert [row.text for row in whole(logs)] == texts
    middle = whole(logs)[1234]
    assert [row.text for row in whole(logs, after=middle.entry)] == texts[1235:]
    assert [row.text for row in logs.newest("ap-1", 2, Wanted())] == texts[-2:]


def test_filters_are_exact(logs: AppLogs) -> None:
    add(logs, "a\n", task_id="ta-1", function_id="fu-1", call_id="fc-1", input_id="in-1")
    add(logs, "b\n", task_id="ta-1", function_id="fu-1", call_id="fc-2", input_id="in-2", fd=ERR)
    add(logs, "c\n", task_id="ta-2", function_id="fu-2")
    for wanted, expected in (
        (Wanted(call_id="fc-1"), "a"),
        (Wanted(input_id="in-2"), "b"),
        (Wanted(task_id="ta-1"), "ab"),
        (Wanted(function_ids=["fu-1", "fu-2"]), "abc"),
        (Wanted(function_ids=["fu-2"]), "c"),
        (Wanted(fd=ERR), "b"),
        (Wanted(search="c"), "c"),
        (Wanted(call_id="fc-"), ""),
    ):
        assert "".join(row.text.strip() for row in whole(logs, wanted)) == expected, wanted


@pytest.mark.parametrize(
    "text", ["x" * 100_000, '{"a": "' + "ü" * 50_000 + '"}\n', "short\n" + "y" * 40_000 + "\nlast"]
)
def test_a_text_of_any_length_is_kept_whole(logs: AppLogs, text: str) -> None:
    add(logs, text)
    assert "".join(row.text for row in whole(logs)) == text
    assert all(row.text.count("\n") == row.text.endswith("\n") for row in whole(logs))


def test_what_is_no_longer_kept_is_told_in_its_place_to_every_reader(logs: AppLogs) -> None:
    texts = [f"{number:6d} {'x' * 93}\n" for number in range(10_000)]
    with (
        patch.object(module, "KEPT_BYTES_PER_APP", 200_000),
        patch.object(module, "_PRUNED_AT_ONCE", 20_000),
    ):
        for at in range(0, len(texts), 100):
            add(logs, *texts[at : at + 100], function_id=random.choice(("fu-1", "fu-2")))
    notice, *kept = whole(logs)
    assert (notice.text, notice.fd) == (
        f"[local cloud: {len(texts) - len(kept)} earlier lines are no longer kept]\n",
        INFO,
    )
    assert [row.text for row in kept] == texts[-len(kept) :]
    assert 1000 < len(kept) < 1300
    assert whole(logs, Wanted(function_ids=["fu-1"], fd=OUT))[0] == notice
    assert whole(logs, after=kept[0].entry)[0] == kept[1]


def test_neighbouring_intervals_share_no_row_and_miss_none(logs: AppLogs) -> None:
    times = [1_700_000_000 + number / 7 for number in range(300)]
    with patch.object(module.time, "time", side_effect=times):
        for number in range(len(times)):
            add(logs, f"{number}\n")
    for width in (2, 6, 30):
        buckets = logs.counts("ap-1", width_s=width, wanted=Wanted(since=times[0], until=times[-1] + 1))
        assert sum(rows for _, _, rows in buckets) == len(times)
        found = []
        for begin, _, rows in buckets:
            part = logs.newest("ap-1", 0, Wanted(since=begin, until=begin + width))
            assert len(part) == rows
            found += part
        assert [row.text for row in found] == [f"{number}\n" for number in range(len(times))]


def test_nothing_of_a_log_is_lost_with_the_cloud(tmp_path: Path) -> None:
    database = Database(tmp_path / "cloud.sqlite")
    add(AppLogs(database), "before\n")
    database.close()
    database = Database(tmp_path / "cloud.sqlite")
    again = AppLogs(database)
    add(again, "after\n")
    assert [row.text for row in whole(again)] == ["before\n", "after\n"]
    database.close()
