"""Builds a wheel of every package and tests each separately.

Each gets a new environment with its wheel, the core and their dependencies, and nothing else of this repository. There
every module of it is imported, every test is collected, and the contract tests run; of the core, all of
tests/standalone.
`make test` has run the other tests of the packages: they would find nothing new here. ``--all`` runs them too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Further requirements of a package's tests; versions come from the lock.
TEST_TOOLS = ["pytest", "pytest-asyncio", "pytest-timeout", "hypothesis"]
#: The tests that hold a package to its contract: a protocol's, a cloud's, or for the API every call on each front end.
CONTRACTS = ("test_contract.py", "test_story.py")
#: Imports every module below a package, the lazily imported ones too.
IMPORT_ALL = """\
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


class Failed(Exception):
    """A command ended with an error; with what it printed."""


def run(*command: object, cwd: Path = ROOT) -> str:
    """What a command prints; raises Failed if it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Failed(f"+ {' '.join(words)}\n{done.stdout}\nended with {done.returncode}")
    return done.stdout


def constraints(folder: Path) -> Path:
    """The lock without hashes, as pip's constraints; markers stay, because a package may have a version per Python."""
    pins = [line.rstrip(" \\") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    file = folder / "constraints.txt"
    file.write_text("\n".join(pins))
    return file


def name_of(package: Path) -> str:
    """The name of a package's distribution."""
    return "fleetcore" if package == ROOT else package.name


def wheel_of(package: Path, wheels: Path) -> Path:
    """The built wheel of a package."""
    return next(wheels.glob(f"{name_of(package).replace('-', '_')}-[0-9]*.whl"))


def test(package: Path, folder: Path, wheels: Path, *, whole: bool) -> str:
    """Installs and tests a package in an environment of its own: the last line that pytest printed."""
    name = name_of(package)
    home = folder / f"env-{name}"
    venv.create(home)
    python = home / "bin" / "python"
    # What is imported is compiled then; most of the SDKs' modules never are.
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check"]
    run(
        *install,
        "--no-index",
        "--no-compile",
        "--find-links",
        wheels,
        f"{wheel_of(package, wheels)}[test]",
        *TEST_TOOLS,
    )
    if package != ROOT:  # whose parts for optional dependencies cannot be imported without them
        run(python, "-c", IMPORT_ALL, name.replace("-", "_"), cwd=folder)
    tests = ROOT / "tests" / "standalone" if package == ROOT else package / "tests"
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT]
    pytest += ["-m", "not soak"]
    chosen = [tests] if whole or package == ROOT else [tests / file for file in CONTRACTS if (tests / file).exists()]
    run(*pytest, "--collect-only", tests, cwd=folder)
    return run(*pytest, "--basetemp", folder / f"tmp-{name}", *chosen, cwd=folder).splitlines()[-1]


def main() -> None:
    """All packages, as many at once as there are processors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="run all tests of each package")
    whole = parser.parse_args().all
    packages = [ROOT, *sorted(path.parent for path in ROOT.glob("[pc][lo][un][gn]*/*/pyproject.toml"))]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        wheels = folder / "wheels"
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels]
        list(pool.map(lambda package: run(*build, package), packages))
        print(f"{len(packages)} wheels built", flush=True)
        wanted = [f"{wheel_of(package, wheels)}[test]" for package in packages]
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "-c", constraints(folder)]
        run(*pip, "-w", wheels, "--find-links", wheels, *wanted, *TEST_TOOLS)
        print("The wheels of all dependencies are there", flush=True)
        tested = {package: pool.submit(test, package, folder, wheels, whole=whole) for package in packages}
        failures = 0
        for package, result in tested.items():
            try:
                print(f"{name_of(package)}: {result.result()}", flush=True)
            except Failed as failure:
                failures += 1
                print(f"{name_of(package)} failed:\n{failure}", flush=True)
    if failures:
        sys.exit(f"{failures} of {len(packages)} packages failed")
    print(f"{len(packages)} packages built, installed and tested alone")


if __name__ == "__main__":
    main()
