"""Shared by all contracts: tests cannot be overridden and end in time, and gaps are declared with reasons.

A contract is a class of tests for one interface. A plugin's test module subclasses it, names the class ``Test…`` and
overrides the *fixtures* that open its implementation. If the implementation knowingly fails a test, ``gaps`` names it
with a reason: then the test must fail (a strict xfail), so a closed gap is noticed too.

    class TestMyCodec(CodecContract):
        gaps = {"test_work_is_bounded": "the vendor's parser is quadratic; ticket 12"}

A test that takes longer than ``time_limit_s`` is ended, even if the implementation blocks, and fails with its name and
the line at which it hung.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from fleetcore.testing.time_limit import time_limit


class Contract:
    """The base of all contracts.

    Attributes:
        gaps: test name → why the implementation fails it.
        time_limit_s: the time limit of one test with its fixtures, seconds. It detects hangs, not slowness: the slowest
            test of the built-in implementations takes six.
    """

    gaps: ClassVar[Mapping[str, str]] = {}
    time_limit_s: ClassVar[float] = 60.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith("test_") and any(name in vars(base) for base in cls.__mro__[1:]):
                raise TypeError(f"{cls.__name__}.{name} overrides a test of its contract; declare it in `gaps` instead")
        for name, reason in cls.gaps.items():
            if not name.startswith("test_") or not hasattr(cls, name):
                raise TypeError(f"{cls.__name__}.gaps names {name!r}, which is not a test of its contract")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.gaps gives no reason for {name!r}")

    @pytest.fixture(autouse=True)
    def _declared_gap(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.gaps:
            request.applymarker(pytest.mark.xfail(reason=self.gaps[name], strict=True))

    @pytest.fixture(autouse=True)
    def _bounded(self, request: pytest.FixtureRequest) -> Iterator[None]:
        if request.config.getoption("usepdb", default=False):
            yield
            return
        with time_limit(self.time_limit_s, request.node.name):
            yield


def missing(contract: object, fixture: str) -> Exception:
    """The error of a contract's fixture that the subclass must override."""
    return NotImplementedError(f"{type(contract).__name__} must override the fixture {fixture!r}")
