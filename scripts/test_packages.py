"""Builds a wheel of every package and tests each separately.

Each gets a new environment with its wheel, the core and their dependencies, and nothing else of this repository.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Further requirements of a package's tests; versions come from the lock.
TEST_TOOLS = ["pytest", "pytest-asyncio", "pytest-timeout", "hypothesis"]


def run(*command: object, cwd: Path = ROOT) -> None:
    """Runs a command and stops if it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def constraints(folder: Path) -> Path:
    """The lock without hashes, as pip's constraints; markers stay, because a package may have a version per Python."""
    pins = [line.rstrip(" \\") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    file = folder / "constraints.txt"
    file.write_text("\n".join(pins))
    return file


def main() -> None:
    """Every package in turn."""
    packages = [ROOT, *sorted(path.parent for path in ROOT.glob("[pc][lo][un][gn]*/*/pyproject.toml"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = folder / "wheels"
        for package in packages:
            run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, package)
        pins = constraints(folder)
        for package in packages:
            home = folder / f"env-{package.name}"
            venv.create(home, with_pip=True)
            python = home / "bin" / "python"
            own = "fleetcore" if package == ROOT else package.name
            wheel = next(wheels.glob(f"{own.replace('-', '_')}-[0-9]*.whl"))
            run(
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "-c",
                pins,
                "--find-links",
                wheels,
                f"{wheel}[test]",
                *TEST_TOOLS,
            )
            tests = ROOT / "tests" / "standalone" if package == ROOT else package / "tests"
            run(
                python,
                "-m",
                "pytest",
                "-q",
                "-c",
                ROOT / "pyproject.toml",
                "--rootdir",
                ROOT,
                "-m",
                "not soak",
                tests,
                cwd=folder,
            )
    print(f"{len(packages)} packages built, installed and tested alone")


if __name__ == "__main__":
    main()
