"""The ``[storage]`` section of the built-in store."""

from attrs import field, frozen, validators


@frozen(kw_only=True)
class SqliteConfig:
    """Settings of the SQLite store.

    Attributes:
        path: the data folder; without it the fleet's own. If that is missing too, everything stays in memory.
        read_only: opens the store in ``path`` while a server has it open; nothing can be changed.
        seal_points: readings kept in memory (41 bytes each) and in the log before they are packed into chunks.
        seal_age_s: readings older than this are packed by the next maintenance, however few there are.
        feed_keep_commits, feed_keep_bytes: how much of the feed is retained for a consumer that lags behind; what is
            given up beyond that is counted in ``feed_lost``.
        limit_bytes: how much all files below the data folder may take, or None: the database, its write-ahead log (24
            MiB, or an eighth of the limit), artifacts, and whatever else lies there. Readings and artifacts that have
            no room are refused as ``storage_full``; operators' changes go on in what is reserved for them, an
            eighth of the limit and at most 64 MiB.
    """

    path: str | None = None
    read_only: bool = False
    seal_points: int = field(default=1_000_000, validator=validators.gt(0))
    seal_age_s: int = field(default=3600, validator=validators.gt(0))
    feed_keep_commits: int = field(default=1_000_000, validator=validators.gt(0))
    feed_keep_bytes: int = field(default=1024**3, validator=validators.gt(0))
    limit_bytes: int | None = field(default=None, validator=validators.optional(validators.gt(0)))
