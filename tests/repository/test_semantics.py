"""The page on how the fleet behaves says what the code does, where that is a table or a number."""

import re
from pathlib import Path

from fleetcore.fleet import commands, health, operations, twins
from fleetcore.fleet.bulk_commands import CAP
from fleetcore.fleet.process_state import presence
from fleetcore.interfaces.provider import Limits
from fleetcore.model.command import CommandState
from fleetcore.model.device import TRANSITIONS, Connectivity, Lifecycle
from fleetcore.wire.times import EARLIEST_MS, LATEST_MS, MAX_AGE_DAYS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "semantics.md").read_text(encoding="utf-8")


def section(number: str) -> str:
    """A numbered section, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(number)}\.? .*?(?=^#)", PAGE + "\n#", re.MULTILINE | re.DOTALL)
    assert found, number
    return " ".join(found.group().split())


def test_the_table_of_the_lifecycle_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE.partition("### 2.2")[0], re.MULTILINE)
    told = {Lifecycle(name): {Lifecycle(each) for each in re.findall(r"`(\w+)`", to)} for name, to in rows}

    assert told == {name: set(to) for name, to in TRANSITIONS.items()}


def test_every_connectivity_and_every_end_of_a_command_is_named() -> None:
    assert {state for state in Connectivity if f"`{state}`" not in section("2.3")} == set()
    assert {state for state in CommandState if state not in section("7.1")} == set()


def test_numbers_are_those_of_the_code() -> None:
    limits = Limits()

    assert (presence.LATE_AFTER_MS, presence.OFFLINE_AFTER_MS) == (15 * 60_000, 60 * 60_000)
    assert "15 minutes" in section("2.3")
    assert "60 minutes" in section("2.3")
    assert (EARLIEST_MS, LATEST_MS) == (10**11, 4 * 10**12)
    assert f"{MAX_AGE_DAYS} days" in section("4")
    assert f"({limits.future_ms // 60_000} minutes)" in section("4")
    assert f"({limits.metrics})" in section("5")
    assert f"({limits.twin_bytes // 1024} KiB)" in section("6")
    assert f"({limits.twin_keys:,} leaves)" in section("6")
    assert f"({limits.json_depth}) deep" in section("6")
    assert f"last {twins.HISTORY} changes" in section("6")
    assert f"again after {commands.ACK_TIMEOUT_MS // 1000} seconds" in section("7.1")
    assert f"({CAP:,} by default)" in section("7.3")
    assert f"at most {operations.MAX_ITEMS:,} items" in section("13")
    assert f"first {operations.MAX_FAILURES:,} failures" in section("13")
    assert f"above {health.BATTERY_PERCENT:.0f} percent" in section("10")
