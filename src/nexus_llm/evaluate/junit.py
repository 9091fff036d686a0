"""A gate's verdict as JUnit XML, which CI systems show beside the tests.

One case a rule: a failed one is a `failure`; an inconclusive one an `error`, since `skipped` would look like a pass.
The format is that of the Ant task as testmoapp/junitxml describes it (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as Xml

_ELEMENTS = {"fail": "failure", "inconclusive": "error"}


def junit_xml(gate: Mapping[str, Any], *, suite: str) -> bytes:
    """The document. `gate` is `{"verdict", "comparisons": [...]}`."""
    rows = gate["comparisons"]
    counts = {element: str(sum(row["verdict"] == verdict for row in rows)) for verdict, element in _ELEMENTS.items()}
    numbers: dict[str, str] = {"tests": str(len(rows)), "failures": counts["failure"], "errors": counts["error"]}
    root = Xml.Element("testsuites", {"name": suite} | numbers)
    cases = Xml.SubElement(root, "testsuite", {"name": suite, "skipped": "0"} | numbers)
    for row in rows:
        name = " ".join(filter(None, (row["name"], row.get("rule", "perplexity"))))
        case = Xml.SubElement(cases, "testcase", classname="nexus.gate", name=name)
        if element := _ELEMENTS.get(row["verdict"]):
            Xml.SubElement(case, element, message=row["reason"], type=row["verdict"])
        Xml.SubElement(case, "system-out").text = row["reason"]
    Xml.indent(root)
    return bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True))
