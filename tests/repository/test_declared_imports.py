"""What a package imports, also within functions, is in its requirements: what another one brings may go any time."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT, *sorted(file.parent for file in ROOT.glob("[pc][lo][un][gn]*/*/pyproject.toml"))]


#: What is used where it is there already, and never asked for.
NEVER_REQUIRED = {"pandas": "telemetry as a data frame"}


def normal(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", name)[0]).lower()


@cache
def distributions():
    return packages_distributions()


def declared(package):
    """The distributions of a package's requirements and extras."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(text for extra in project.get("optional-dependencies", {}).values() for text in extra),
    ]
    return {normal(text) for text in texts} | {normal(project["name"])}


def imported(file):
    """The top-level modules that a file imports anywhere, with their lines."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_requires_what_it_imports(package):
    folder = package / ("fleetcore" if package == ROOT else package.name.replace("-", "_"))
    allowed, missing = declared(package), []
    for file in sorted(folder.rglob("*.py")):
        for name, line in imported(file):
            if name in sys.stdlib_module_names or name in NEVER_REQUIRED or name == folder.name:
                continue
            if not {normal(each) for each in distributions().get(name, [name])} & allowed:
                missing.append(f"{file.relative_to(ROOT)}:{line}: {name}")
    assert missing == []
