"""A commit that comes while the store closes is told as what it is."""

import sqlite3

import pytest

from fleetcore.builtin.sqlite.checkpoint import Checkpointer
from fleetcore.errors import StorageError


def test_what_is_written_after_the_checkpointer_has_stopped_is_no_failure():
    checkpointer = Checkpointer(sqlite3.connect(":memory:", check_same_thread=False), lambda _work: None, 1 << 20)
    checkpointer.start()
    checkpointer.stop()

    checkpointer.wrote(1 << 30)


def test_a_checkpointer_that_has_failed_is_told():
    checkpointer = Checkpointer(sqlite3.connect(":memory:", check_same_thread=False), lambda _work: None, 1 << 20)
    checkpointer._thread.failure = StorageError("The thread has ended")

    with pytest.raises(StorageError, match="has ended"):
        checkpointer.wrote(1 << 30)
    checkpointer._thread.stop(wait=False)
