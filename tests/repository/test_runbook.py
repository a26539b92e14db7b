"""Each finding of ``fleetcore doctor`` has a line in its page: a new one without advice is of little use at night."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_finding_of_doctor_has_a_line_in_the_runbook():
    source = (ROOT / "fleetcore/cli/doctor.py").read_text(encoding="utf-8")
    page = (ROOT / "docs/how-to/read-what-doctor-finds.md").read_text(encoding="utf-8")
    told = {name for row in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) for name in row.split(", ")}

    found = {words.strip() for words in re.findall(r'_finding\(\s*"?\w+"?,\s*f?"([a-zA-Z ]+)', source)}

    assert len(found) > 10
    assert found - told == set()
