"""What a CI system reads: gate verdicts as JUnit XML, and as Markdown for a job's summary."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from hwc.bundle.gates import Verdict

_SIGNS = {"passed": "✅", "missed": "❌", "unjudged": "➖"}


def junit(name: str, verdicts: Sequence[Verdict]) -> bytes:
    """Return JUnit XML: one test case a gate, a class a variant; a missed gate fails, an unjudged one is skipped."""
    counts = {outcome: str(sum(row.outcome == outcome for row in verdicts)) for outcome in _SIGNS}
    suite = ET.Element(
        "testsuite", name=f"hwc {name}", tests=str(len(verdicts)), failures=counts["missed"],
        skipped=counts["unjudged"], errors="0",
    )
    for row in verdicts:
        case = ET.SubElement(suite, "testcase", classname=f"{name}.{row.variant}", name=row.gate)
        if row.outcome == "missed":
            ET.SubElement(case, "failure", message=row.told)
        elif row.outcome == "unjudged":
            ET.SubElement(case, "skipped", message=row.told)
        else:
            ET.SubElement(case, "system-out").text = row.told
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def summary(name: str, verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table, missed ones first."""
    order = {"missed": 0, "unjudged": 1, "passed": 2}
    rows = sorted(verdicts, key=lambda row: order[row.outcome])
    lines = [f"### hwc {name}", "", "| | variant | gate | |", "|---|---|---|---|"]
    lines += [f"| {_SIGNS[row.outcome]} | {row.variant} | {row.gate} | {_escaped(row.told)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
