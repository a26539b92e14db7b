"""Writes requirements.lock: every third-party package of the workspace, with versions and hashes but without hosts."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wanted() -> list[str]:
    """The requirements of every package, without the workspace's own."""
    found = (ROOT / "requirements.in").read_text().splitlines()
    for file in [
        ROOT / "pyproject.toml",
        *ROOT.glob("plugins/*/pyproject.toml"),
        *ROOT.glob("connectors/*/pyproject.toml"),
    ]:
        project = tomllib.loads(file.read_text())["project"]
        found += project.get("dependencies", [])
        for extra in project.get("optional-dependencies", {}).values():
            found += extra
    return sorted({line for line in found if line and not line.startswith(("#", "fleetcore"))})


def main() -> None:
    """Runs uv on them."""
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        file.write("\n".join(wanted()))
        file.flush()
        command = (
            "-m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate"
        )
        more = "--no-emit-index-url --no-emit-find-links -o requirements.lock"
        subprocess.run([sys.executable, *command.split(), *more.split(), file.name], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
