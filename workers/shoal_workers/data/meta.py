"""Small values that outlive the process."""

import sqlite3


def get(connection: sqlite3.Connection, key: str, default: str = "") -> str:
    """The stored text, or `default`."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else str(row[0])


def put(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Store text."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def get_int(connection: sqlite3.Connection, key: str) -> int:
    """The stored number, or 0."""
    return int(get(connection, key, "0"))


def set_int(connection: sqlite3.Connection, key: str, value: int) -> None:
    """Store a number."""
    put(connection, key, str(value))
