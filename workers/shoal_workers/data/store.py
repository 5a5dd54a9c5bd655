"""The database: one SQLite file, one connection, one writer thread; every operation is one transaction.

The journal is a write-ahead log with `synchronous=NORMAL`: a killed process loses nothing that was committed. A machine
that loses power may lose the last commits (never their integrity); leases then run out, and the trainer's checkpoint
says what it had consumed.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from shoal_workers.data.counters import BACKFILL, TRIGGERS
from shoal_workers.data.schema import TABLES

T = TypeVar("T")

SCHEMA_VERSION = 3
_MIGRATED_FROM = 2
"""Counters are filled from a store of this version when it is opened; its records stay in their rows."""


class StoreError(Exception):
    """The store cannot be used; the message names the file and the cause."""


class Store:
    """The connection, and the thread it lives in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.connection = self._thread.submit(self._open).result()

    async def run(self, operation: Callable[[], T]) -> T:
        """Run `operation` in the writer's thread, inside one transaction that its failure undoes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, operation)

    def run_now(self, operation: Callable[[], T]) -> T:
        """As `run`, for callers without an event loop."""
        return self._thread.submit(self._transact, operation).result()

    async def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run a long look on a connection of its own, beside the writer."""

        def look() -> T:
            with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                return operation(connection)

        return await asyncio.to_thread(look)

    def close(self) -> None:
        """Close the file; operations that wait are run first."""
        self._thread.submit(self.connection.close).result()
        self._thread.shutdown()

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            stored = connection.execute("PRAGMA user_version").fetchone()[0]
            if stored not in (0, _MIGRATED_FROM, SCHEMA_VERSION):
                raise StoreError(f"{self._path}: schema version {stored}, this program knows {SCHEMA_VERSION}")
            fill = BACKFILL if stored == _MIGRATED_FROM else ""
            connection.executescript(
                f"BEGIN; {TABLES} {fill} {TRIGGERS} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"store {self._path}: {error}") from error
        return connection

    def _transact(self, operation: Callable[[], T]) -> T:
        with self._transaction():
            return operation()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")


def scalar(connection: sqlite3.Connection, query: str, *values: Any) -> Any:
    """The one value of a query, None without a row."""
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
