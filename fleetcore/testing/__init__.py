"""The conformance kit and the fleet simulator: public API for authors of plugins and tests of fleets.

Import what you need from its module: the contracts need pytest and hypothesis (``pip install fleetcore[test]``),
the clock, the faults and the simulator do not.

Under pytest, failing asserts of these modules show the compared values, like those of a test module.
"""

import pkgutil
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before any of the modules is imported, and only under pytest: the simulator is also part of the command line, which
# must not import pytest.
if "pytest" in sys.modules:
    import pytest

    pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

if TYPE_CHECKING:
    from fleetcore.testing.kill import killed as killed
    from fleetcore.testing.plugin_context import context as context

#: Names that load on first use (PEP 562).
_HOME = {"context": "fleetcore.testing.plugin_context", "killed": "fleetcore.testing.kill"}

__all__ = ["context", "killed"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fleetcore.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
