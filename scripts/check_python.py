"""Reports an unsupported Python in one line, before a long installation fails."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - it is older Pythons that must read this
    sys.exit(f"fleetcore needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.11 …")
