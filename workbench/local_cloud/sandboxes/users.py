"""The host's users that sandboxes run as when the cloud is root: one for each project, none of them anybody's.

Two clouds on one machine share them unless each is given a range of its own: limits by user would then be counted
together.
"""

import os
import re

UIDS_VARIABLE = "WORKBENCH_SANDBOX_UIDS"  # FIRST-LAST, both included
_DEFAULT = (210_000, 259_999)
LOWEST_UID = 1_000  # below are the system's own users


class UidRangeError(ValueError):
    """WORKBENCH_SANDBOX_UIDS is no range of user ids; the message says what one looks like."""


def uid_range() -> tuple[int, int]:
    """The first and the last user id for sandboxes. Raises UidRangeError."""
    given = os.environ.get(UIDS_VARIABLE)
    if not given:
        return _DEFAULT
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", given, re.ASCII)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not LOWEST_UID <= first <= last < 2**32 - 1:
        raise UidRangeError(
            f"{UIDS_VARIABLE} is {given!r}: it takes two user ids from {LOWEST_UID} on, such as "
            f"{_DEFAULT[0]}-{_DEFAULT[1]}"
        )
    return first, last


def isolation_uid(index: int) -> int:
    """The unprivileged host user for the project with this index, when the cloud is root. Raises UidRangeError."""
    first, last = uid_range()
    return first + index % (last - first + 1)
