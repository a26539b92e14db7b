"""``python -m benchmarks [NAME …] [--quick]``: runs them in turn, prints the table, writes benchmarks/results.json."""

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from attrs import asdict
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

NAMES = (
    "store",
    "checksums",
    "path",
    "mqtt",
    "http",
    "download",
    "websocket",
    "coap",
    "connections",
    "connect_storm",
    "registry",
    "state",
    "commands",
    "trust",
    "rights",
    "import",
    "import_telemetry",
    "lists",
    "campaign",
    "rollout",
    "durable",
    "gate",
    "plan",
    "api",
    "mirror",
    "top",
    "plot",
    "edge",
    "gateway",
)
RESULTS = Path(__file__).parent / "results.json"


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(box=None, header_style="bold")
    for head in ("what", "figure", "against", "ratio", "goal", "met"):
        table.add_column(head)
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "no"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g} ×"
        table.add_row(row.name, f"{row.value:.4g} {row.unit}", row.against, ratio, row.goal, met)
    Console(width=160).print(table)


def main() -> None:
    """Runs the named ones, or all; reports failed ones and continues with the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer points and rounds")
    asked = parser.parse_args()
    kept = json.loads(RESULTS.read_text())["benchmarks"] if RESULTS.exists() else {}
    for name in asked.names or NAMES:
        command = f"python -m benchmarks {name}{' --quick' if asked.quick else ''}"
        print(command, file=sys.stderr)
        rows = import_module(f"benchmarks.bench_{name}").run(quick=asked.quick)
        show(rows)
        kept[name] = {
            "command": command,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
            "rows": [asdict(row) for row in rows],
        }
        RESULTS.write_text(json.dumps({"benchmarks": kept}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
