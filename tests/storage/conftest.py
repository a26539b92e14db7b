"""Openers of the built-in store for tests."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import SqliteStorage, open_sqlite
from fleetcore.testing import context

OpenAt = Callable[..., AbstractAsyncContextManager[SqliteStorage]]


@pytest.fixture
def open_at() -> OpenAt:
    """``open_at(folder or None, **settings)`` opens the store there, or one in memory."""
    lent = context("sqlite", in_memory=True)

    def opener(folder: Path | None, **settings: int | bool) -> AbstractAsyncContextManager[SqliteStorage]:
        return open_sqlite(SqliteConfig(path=str(folder) if folder else None, **settings), lent)

    return opener
