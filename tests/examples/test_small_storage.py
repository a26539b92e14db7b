"""The store in one file keeps the whole contract, survives a kill, and carries a fleet."""

import importlib.util
import logging
import sys
from itertools import count
from pathlib import Path

import pytest

from fleetcore.interfaces.provider import Context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.storage_contract import StorageContract

FILE = Path(__file__).parents[2] / "examples" / "small_storage.py"


@pytest.fixture(scope="module")
def small():
    spec = importlib.util.spec_from_file_location("small_storage", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_storage"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["small_storage"]


@pytest.fixture
def open_at(small):
    context = Context(
        name="small", fleet="test", clock=MovableClock(), logger=logging.getLogger("test"), secret=lambda text: text
    )
    return lambda folder: small.open_small(small.SmallConfig(path=str(folder)), context)


class TestSmallStorage(StorageContract):
    @pytest.fixture
    def open_storage(self, open_at, tmp_path):
        numbers = count()
        return lambda: open_at(tmp_path / f"store-{next(numbers)}")

    @pytest.fixture
    def open_again(self, open_at, tmp_path):
        return lambda: open_at(tmp_path / "the-store")

    @pytest.fixture
    def open_backup(self, open_at):
        return open_at
