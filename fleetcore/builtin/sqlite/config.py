"""The ``[storage]`` section of the built-in store."""

from attrs import frozen


@frozen(kw_only=True)
class SqliteConfig:
    """Settings of the SQLite store.

    Attributes:
        path: the data folder; without it the fleet's own, and where that is missing too, everything stays in memory.
        read_only: opens beside a running server; nothing can be changed, no lock is taken.
        seal_points: readings kept in memory (41 bytes each) and in the log before they are packed into chunks.
        seal_age_s: readings older than this are packed by the next maintenance, however few they are.
        feed_keep_commits, feed_keep_bytes: how much of the feed is kept for a consumer that lags behind; what is
            given up beyond that is counted in ``feed_lost``.
        limit_bytes: the largest size of the database file, or None; a full one answers ``storage_full``.
    """

    path: str | None = None
    read_only: bool = False
    seal_points: int = 1_000_000
    seal_age_s: int = 3600
    feed_keep_commits: int = 1_000_000
    feed_keep_bytes: int = 1024**3
    limit_bytes: int | None = None
