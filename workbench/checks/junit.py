"""A report as JUnit XML, as CI systems read it."""

import re
from xml.etree import ElementTree as ET

from workbench.checks.lines import Report

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """One test case for each line: failed with its evidence and fix, or skipped with the reason."""
    statuses = [line.status for line in report.lines]
    suite = ET.Element(
        "testsuite",
        name="workbench check",
        tests=str(len(statuses)),
        failures=str(statuses.count("fail")),
        skipped=str(statuses.count("skipped")),
        time=f"{report.took_s:.3f}",
    )
    for line in report.lines:
        case = ET.SubElement(suite, "testcase", classname="workbench.check", name=line.name)
        evidence = _NOT_IN_XML.sub("�", line.evidence)
        if line.status == "fail":
            failure = ET.SubElement(case, "failure", message=evidence)
            failure.text = _NOT_IN_XML.sub("�", f"{line.evidence}\nfix: {line.fix}")
        elif line.status == "skipped":
            ET.SubElement(case, "skipped", message=evidence)
        else:
            ET.SubElement(case, "system-out").text = evidence
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)
