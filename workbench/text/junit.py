"""JUnit XML, as CI systems read it. Whatever a job wrote is made safe for XML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case. `failed` and `skipped` are the reason, "" when it was neither; `out` is what it said."""

    name: str
    took_s: float = 0.0
    failed: str = ""
    skipped: str = ""
    out: str = ""


def junit(suite: str, cases: Sequence[Case], *, took_s: float) -> str:
    """A suite of cases as JUnit XML; the first line of a failure is its message."""
    root = ET.Element(
        "testsuite",
        name=suite,
        tests=str(len(cases)),
        failures=str(sum(bool(case.failed) for case in cases)),
        skipped=str(sum(bool(case.skipped) for case in cases)),
        time=f"{took_s:.3f}",
    )
    for one in cases:
        case = ET.SubElement(
            root, "testcase", classname=suite.replace(" ", "."), name=_safe(one.name), time=f"{one.took_s:.3f}"
        )
        if one.failed:
            failure = ET.SubElement(case, "failure", message=_safe(one.failed.partition("\n")[0]))
            failure.text = _safe(one.failed)
        if one.skipped:
            ET.SubElement(case, "skipped", message=_safe(one.skipped))
        if one.out:
            ET.SubElement(case, "system-out").text = _safe(one.out)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _safe(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
