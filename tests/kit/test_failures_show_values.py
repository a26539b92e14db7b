"""What a plugin's author reads when a contract fails: the values that differ, and where a hang hangs."""

_STORE = """\
import pytest
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.testing import context
from fleetcore.testing.storage_contract import StorageContract


class Broken:
    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

{methods}

class Opened:
    def __init__(self):
        self._opening = open_sqlite(SqliteConfig(), context(in_memory=True))

    async def __aenter__(self):
        return Broken(await self._opening.__aenter__())

    async def __aexit__(self, *error):
        return await self._opening.__aexit__(*error)


class TestMine(StorageContract):
    time_limit_s = {limit}

    @pytest.fixture
    def open_storage(self):
        return Opened

    @pytest.fixture
    def open_backup(self):
        return lambda folder: Opened()
"""


def test_an_assertion_of_a_contract_shows_what_it_compared(run_tests):
    methods = """\
    async def cursor(self, name):
        found = await self._real.cursor(name)
        return None if found is None else found + 1
"""

    out = run_tests(_STORE.format(methods=methods, limit=60), "-k", "test_cursors_are_kept_moved_and_forgotten")

    assert "1 failed" in out, out
    assert "assert [8, 1] == [7, 0]" in out, out


def test_a_helper_of_a_contract_shows_what_it_compared(run_tests):
    source = """\
import pytest

from fleetcore.testing.codec_contract import CodecContract, Sample


class Mine:
    media_types = ("text/x-mine; charset=utf-8",)


class TestMine(CodecContract):
    @pytest.fixture
    def codec(self):
        return Mine()

    @pytest.fixture
    def samples(self):
        return [Sample(payload=b"1", readings=[("t", 1)])]
"""

    out = run_tests(source, "-k", "test_media_types_are_lower_case_and_bare")

    assert "';' is contained here" in out, out
    assert "text/x-mine; charset=utf-8" in out, out


def test_a_commit_that_never_suspends_ends_with_the_test_and_the_line(run_tests):
    methods = """\
    async def commit(self, change):
        while True:
            change = change
"""

    out = run_tests(_STORE.format(methods=methods, limit=2), "-k", "test_a_backup_made_while_writes_go_on")

    assert "1 failed" in out, out
    assert "TimeLimitExceeded: test_a_backup_made_while_writes_go_on_is_consistent took over 2 s" in out, out
    assert "in commit" in out, out


def test_a_fast_commit_that_never_lets_the_backup_run_ends_too(run_tests):
    methods = """\
    async def commit(self, change):
        from fleetcore.model.store import Committed
        return Committed(position=1)
"""

    out = run_tests(_STORE.format(methods=methods, limit=2), "-k", "test_a_backup_made_while_writes_go_on")

    assert "1 failed" in out, out
    assert "in write" in out, out
