"""The built-in store keeps the contract of all stores: in memory, in a folder, and with every commit sealed at once."""

from itertools import count
from typing import ClassVar

import pytest

from fleetcore.testing.storage_contract import StorageContract


class TestInMemory(StorageContract):
    @pytest.fixture
    def open_storage(self, open_at):
        return lambda: open_at(None)

    @pytest.fixture
    def open_backup(self, open_at):
        return open_at


class TestInAFolder(StorageContract):
    settings: ClassVar = {}

    @pytest.fixture
    def open_storage(self, open_at, tmp_path):
        numbers = count()
        return lambda: open_at(tmp_path / f"store-{next(numbers)}", **self.settings)

    @pytest.fixture
    def open_again(self, open_at, tmp_path):
        return lambda: open_at(tmp_path / "the-store", **self.settings)

    @pytest.fixture
    def open_backup(self, open_at):
        return open_at


class TestSealingWithoutRest(TestInAFolder):
    """Chunks of one commit, merged again and again, while the log keeps next to nothing."""

    settings: ClassVar = {"seal_points": 1, "feed_keep_bytes": 10_000_000}
