"""Calls functions that have a schedule, by their app's clock. A call that was due while the cloud was down is skipped.

Cron lines are parsed by croniter, because their rules about days, ranges and time zones are complicated.
"""

import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from croniter import croniter
from croniter.croniter import CroniterError
from dateutil.relativedelta import relativedelta
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import CloudError, invalid
from workbench.local_cloud.functions.function_calls import Calls
from workbench.local_cloud.functions.pool import Pools

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0


class Schedules:
    """Queues a call of each deployed function with a schedule whenever it is due."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools, clocks: Clocks) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._clocks = clocks
        self._due: dict[str, tuple[str, float]] = {}  # by function id: its definition's id, and when it is due

    async def run(self) -> None:
        """Queue calls as they become due, until cancelled."""
        while True:
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  # one bad function must not stop the others' schedules
                _log.error("schedules.failed", exc_info=error)
            await self._clocks.whole.sleep(_LOOK_S)

    def _look(self) -> None:
        scheduled = dict(self._apps.scheduled())
        for gone in self._due.keys() - scheduled.keys():
            del self._due[gone]
        for function_id, definition_id in scheduled.items():
            known, due = self._due.get(function_id, ("", 0.0))
            schedule = self._apps.function(function_id).schedule
            now = self._clocks.of_function(function_id).time()
            following = next_time(schedule, now)
            if known == definition_id and due > now:
                following = min(due, following)  # by a clock that was set back it may be due sooner
            elif known == definition_id:
                self._start(function_id)
            self._due[function_id] = (definition_id, following)

    def _start(self, function_id: str) -> None:
        call = self._calls.create(function_id, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC)
        payload = api_pb2.FunctionInput(args=pickle.dumps(((), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        self._pools.submit(call.add(0, payload))
        _log.info("schedule.started", function_id=function_id, call_id=call.call_id)


def check(schedule: api_pb2.Schedule) -> None:
    """Raise CloudError INVALID_ARGUMENT for a schedule that has no next time."""
    if schedule.WhichOneof("schedule_oneof") is not None:
        next_time(schedule, 0.0)


def next_time(schedule: api_pb2.Schedule, now: float) -> float:
    """Return when a schedule is due next after `now`, both in Unix seconds; raises CloudError INVALID_ARGUMENT."""
    if schedule.WhichOneof("schedule_oneof") == "cron":
        return _next_cron(schedule.cron.cron_string, schedule.cron.timezone or "UTC", now)
    period = schedule.period
    step = relativedelta(years=period.years, months=period.months, weeks=period.weeks, days=period.days)
    start = datetime.fromtimestamp(now, UTC)
    try:
        span = timedelta(hours=period.hours, minutes=period.minutes, seconds=period.seconds)
        due = start + step + span
    except (OverflowError, ValueError) as error:
        raise invalid(f"This period is out of range: {error}.") from error
    if due <= start:
        raise invalid("A period must be longer than 0 seconds.")
    return due.timestamp()


def _next_cron(line: str, timezone: str, now: float) -> float:
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise invalid(f"There is no time zone named {timezone[:64]!r}: use a name such as Europe/Berlin.") from error
    try:
        if len(line.split()) != 5:
            raise invalid(f"A cron line has five fields, {line[:100]!r} has {len(line.split())}.")
        following: datetime = croniter(line, datetime.fromtimestamp(now, zone)).get_next(datetime)
    except (CroniterError, CloudError) as error:
        raise invalid(f"The cron line {line[:100]!r} cannot be used: {error}") from error
    return following.timestamp()
