"""The contract of :class:`~fleetcore.interfaces.Storage`, for authors of stores.

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def open_storage(self, tmp_path):
            folders = itertools.count()
            return lambda: open_mine(MyConfig(path=tmp_path / str(next(folders))))

        @pytest.fixture
        def open_again(self, tmp_path):
            return lambda: open_mine(MyConfig(path=tmp_path / "the one"))

The tests are coroutines: pytest-asyncio runs them.
"""

from fleetcore.testing.storage_expiry import ExpiryContract
from fleetcore.testing.storage_feed import FeedContract
from fleetcore.testing.storage_keeping import KeepingContract
from fleetcore.testing.storage_primitives import PrimitivesContract
from fleetcore.testing.storage_readings import ReadingsContract
from fleetcore.testing.storage_records import RecordsContract
from fleetcore.testing.storage_texts import TextsContract


class StorageContract(
    RecordsContract, ReadingsContract, TextsContract, FeedContract, KeepingContract, ExpiryContract, PrimitivesContract
):
    """All guarantees of a store. Override ``open_storage``, and ``open_again`` and ``open_backup`` if they apply."""
