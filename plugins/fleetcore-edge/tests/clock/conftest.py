"""A machine whose clocks and boots tests set."""

import pytest
from fleetcore_edge.clock.machine import Machine

DAY = 86_400_000


class FakeMachine(Machine):
    """Its clocks; ``true_ms`` is the true time, and ``wrong_ms`` how far the wall clock is ahead of it."""

    def __init__(self, true_ms=1_796_000_000_000, wall_ms=None):
        self.true_ms, self.synchronised, self.forgets = true_ms, False, False
        self.number = 0
        self.boot(0, wall_ms)

    def boot(self, off_ms=60_000, wall_ms=None):
        """It was off for a while, and starts with some wall clock; the right one by default."""
        self.number += 1
        self.true_ms += off_ms
        self.booted_ms = self.true_ms - 5_000
        self.set(self.true_ms if wall_ms is None else wall_ms)

    def set(self, wall_ms):
        self.wrong_ms = wall_ms - self.true_ms

    def pass_(self, ms):
        self.true_ms += ms

    def boot_id(self):
        return f"boot-{self.number}"

    def boottime_ms(self):
        return self.true_ms - self.booted_ms

    def wall_ms(self):
        return self.true_ms + self.wrong_ms

    def is_synchronised(self):
        return self.synchronised

    def may_forget(self):
        return self.forgets


@pytest.fixture
def machine():
    return FakeMachine()


@pytest.fixture(scope="session")
def machines():
    """Makes machines."""
    return FakeMachine
