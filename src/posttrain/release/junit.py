"""The verdict as JUnit XML, for continuous integration."""

import os
import tempfile
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from posttrain.config.files import write_text
from posttrain.release.verdict import Verdict


def write_junit(verdict: Verdict, path: str | Path) -> None:
    """One test case a check: a block is a failure, infrastructure an error, inconclusive skipped with its reason."""
    suite = TestSuite(f"gate {verdict.gate}")
    for key in ("status", "headline", "suite", "suite_hash", "candidate", "baseline"):
        suite.add_property(key, _printable(str(getattr(verdict, key))))
    for check in verdict.checks:
        case = TestCase(_printable(check.name), classname=f"gate.{check.kind}")
        message = _printable(f"{check.required}: {check.reason}")
        if check.outcome == "block":
            case.result = [Failure(message)]
        elif check.outcome == "infrastructure":
            case.result = [Error(message)]
        elif check.outcome == "inconclusive":
            case.result = [Skipped(message)]
        suite.add_testcase(case)
    xml = JUnitXml()
    xml.add_testsuite(suite)
    handle, temporary = tempfile.mkstemp(suffix=".xml")
    os.close(handle)
    try:
        xml.write(temporary, pretty=True)
        write_text(path, Path(temporary).read_text(encoding="utf-8"))
    finally:
        os.unlink(temporary)


def _printable(text: str) -> str:
    """Without the control characters XML cannot hold."""
    return "".join(character if character >= " " or character in "\t\n" else "�" for character in text)
