"""When a schedule is due next, and what is refused for one."""

from datetime import UTC, datetime

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.functions.retries import delay_s
from workbench.local_cloud.functions.schedules import check, next_time


def cron(line: str, timezone: str = "UTC") -> api_pb2.Schedule:
    return api_pb2.Schedule(cron=api_pb2.Schedule.Cron(cron_string=line, timezone=timezone))


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("line", "timezone", "now", "due"),
    [
        ("*/5 * * * *", "UTC", "2026-01-01T00:01", "2026-01-01T00:05"),
        ("0 9 * * 1", "UTC", "2026-01-01T00:00", "2026-01-05T09:00"),
        ("0 9 * * *", "America/New_York", "2026-01-01T00:00", "2026-01-01T14:00"),
        ("0 9 * * *", "America/New_York", "2026-07-01T00:00", "2026-07-01T13:00"),  # summer time
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", "2028-02-29T00:00"),
    ],
)
def test_cron_lines(line: str, timezone: str, now: str, due: str) -> None:
    assert next_time(cron(line, timezone), at(now)) == at(due)


def test_periods() -> None:
    period = api_pb2.Schedule.Period
    month = api_pb2.Schedule(period=period(months=1))
    assert next_time(month, at("2026-01-31T12:00")) == at("2026-02-28T12:00")
    mixed = api_pb2.Schedule(period=period(days=1, hours=2, minutes=3, seconds=4.5))
    assert next_time(mixed, 0.0) == 86_400 + 2 * 3600 + 3 * 60 + 4.5


@pytest.mark.parametrize(
    "schedule",
    [
        cron("* * * *"),
        cron("61 * * * *"),
        cron("* * * * * *"),
        cron("0 0 31 2 *"),
        cron("* * * * *", "Mars/Olympus"),
        cron("* * * * *", "../../etc/passwd"),
        api_pb2.Schedule(period=api_pb2.Schedule.Period()),
        api_pb2.Schedule(period=api_pb2.Schedule.Period(seconds=-5)),
        api_pb2.Schedule(period=api_pb2.Schedule.Period(years=2_000_000_000)),
        api_pb2.Schedule(period=api_pb2.Schedule.Period(seconds=float("nan"))),
        api_pb2.Schedule(period=api_pb2.Schedule.Period(seconds=float("inf"))),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_kept_is_refused_when_it_is_deployed(schedule: api_pb2.Schedule) -> None:
    with pytest.raises(CloudError):
        check(schedule)


def test_retries_wait_longer_each_time_within_bounds() -> None:
    policy = api_pb2.FunctionRetryPolicy(retries=8, initial_delay_ms=1000, backoff_coefficient=2.0, max_delay_ms=30_000)
    assert [delay_s(policy, attempt) for attempt in range(1, 10)] == [1, 2, 4, 8, 16, 30, 30, 30, None]
    assert delay_s(api_pb2.FunctionRetryPolicy(), 1) is None
    assert delay_s(api_pb2.FunctionRetryPolicy(retries=1), 1) == 1  # never in a hot loop
