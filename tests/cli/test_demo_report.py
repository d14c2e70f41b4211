"""The demonstration's report says what the gate decided, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from featureloop.cli.demo_report import write_report


@pytest.mark.parametrize("passed", [True, False])
def test_the_report_says_whether_the_new_recognizer_was_taken_over(tmp_path: Path, passed: bool) -> None:
    reasons = [] if passed else ["better overall only with probability 0.73, 0.90 is required"]
    result = {
        "quality": [
            {"site": site, "when": when, "dice": 0.5, "low": 0.4, "high": 0.6}
            for site in "AB"
            for when in ("before", "after")
        ],
        "curve": [{"records": 0, "dice": 0.5}, {"records": 24, "dice": 0.6}],
        "bytes": {"left": 16_452, "images": 11_191_943, "records": 240},
        "process": {"frames": 240, "doubtful": 240, "outcomes": {"changed": 190}, "frames_per_second": 5.0},
        "gate": {"passed": passed, "probability": 0.73, "reasons": reasons, "sites": []},
        "package": "ab" * 32,
        "pictures": [{"kind": "gained most", "before": 0.5, "after": 0.5, "images": ["", "", ""]}],
        "seconds": 241.0,
    }
    page = write_report(result, tmp_path).read_text(encoding="utf-8")
    assert ("was signed and promoted" in page) == passed
    assert ("gained most" in page) == passed
    assert ("stayed live" in page) == ("0.90 is required" in page) == (not passed)
    assert "69 B" in page
