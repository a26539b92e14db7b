"""What all contracts share: their tests cannot be overridden, and a gap is declared with its reason.

A contract is a class of tests over one interface. A plugin's test module subclasses it, names the class ``Test…`` and
overrides the *fixtures* that open its implementation. Where the implementation knowingly falls short, ``gaps`` names
the test and says why: the test then must fail (a strict xfail), so a gap that is closed is noticed too.

    class TestMyCodec(CodecContract):
        gaps = {"test_work_is_bounded": "the vendor's parser is quadratic; ticket 12"}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest


class Contract:
    """The base of all contracts.

    Attributes:
        gaps: test name → why the implementation does not pass it.
    """

    gaps: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith("test_") and any(name in vars(base) for base in cls.__mro__[1:]):
                raise TypeError(f"{cls.__name__}.{name} overrides a test of its contract; declare it in `gaps` instead")
        for name, reason in cls.gaps.items():
            if not name.startswith("test_") or not hasattr(cls, name):
                raise TypeError(f"{cls.__name__}.gaps names {name!r}, which is no test of its contract")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.gaps gives no reason for {name!r}")

    @pytest.fixture(autouse=True)
    def _declared_gap(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.gaps:
            request.applymarker(pytest.mark.xfail(reason=self.gaps[name], strict=True))


def missing(contract: object, fixture: str) -> Exception:
    """The error of a contract's fixture that the subclass has to override."""
    return NotImplementedError(f"{type(contract).__name__} must override the fixture {fixture!r}")
