"""The conformance kit and the fleet simulator: public API for people who write plugins and test fleets.

Import what you need from its module: the contracts need pytest and hypothesis (``pip install fleetcore[test]``),
the clock, the faults and the simulator do not.

Under pytest, the asserts of these modules show the values that they compared, as those of a test module do.
"""

import pkgutil
import sys

# Before any of the modules is imported, and only where pytest runs: the simulator is also a part of the command line,
# which must not pay for pytest.
if "pytest" in sys.modules:
    import pytest

    pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
