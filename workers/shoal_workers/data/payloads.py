"""The tokens of trajectories, beside the row store: files that are only ever appended to, removed as a whole.

Rows stay small, so that what reads them costs the same however long the episodes are, and what was trained can be
removed without a database having to be compacted. A row is committed after its bytes were written; a process that is
killed in between leaves bytes that no row names.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path

FILE_BYTES = 64 * 2**20
"""A file is removed when all that it holds is finished, so small ones free space sooner; 64 MiB are 3,000 trajectories
of 2,000 tokens."""


class PayloadError(Exception):
    """The bytes of a trajectory are not what was written; the message says why."""


@dataclass(frozen=True)
class Payloads:
    """Operations inside the caller's transaction."""

    connection: sqlite3.Connection
    folder: Path
    file_bytes: int = FILE_BYTES

    def write(self, trajectory: str, blob: bytes, newest_version: int, top_token: int) -> None:
        """Append the bytes and note where they lie; raises OSError where the volume has no room."""
        number = self._current()
        path = self._path(number)
        if number == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            start = file.tell()
            file.write(blob)
        self.connection.execute(
            "INSERT INTO payloads (trajectory_id, file, start, length, crc, top_token) VALUES (?, ?, ?, ?, ?, ?)",
            (trajectory, number, start, len(blob), zlib.crc32(blob), top_token),
        )
        self.connection.execute(
            "INSERT INTO payload_files (file, bytes, live, newest_version) VALUES (?, ?, 1, ?) ON CONFLICT (file) DO"
            " UPDATE SET bytes = excluded.bytes, live = live + 1,"
            " newest_version = MAX(newest_version, excluded.newest_version)",
            (number, start + len(blob), newest_version),
        )

    def read(self, trajectory: str) -> bytes | None:
        """The bytes; None for a trajectory without any, raises PayloadError where they are damaged or removed."""
        row = self.connection.execute("SELECT * FROM payloads WHERE trajectory_id = ?", (trajectory,)).fetchone()
        if row is None:
            return None
        try:
            with self._path(row["file"]).open("rb") as file:
                blob = os.pread(file.fileno(), row["length"], row["start"])
        except OSError as error:
            raise PayloadError(f"file {row['file']}: {error.strerror}") from None
        if len(blob) != row["length"] or zlib.crc32(blob) != row["crc"]:
            raise PayloadError(f"file {row['file']}, byte {row['start']}: its checksum does not fit")
        return blob

    def finished(self, group: int, now: float) -> None:
        """Nobody needs the tokens of this group any more."""
        query = (
            "SELECT p.file, COUNT(*) AS n FROM payloads p JOIN trajectories t ON t.id = p.trajectory_id"
            " WHERE t.group_id = ? GROUP BY p.file"
        )
        for row in self.connection.execute(query, (group,)).fetchall():
            self.connection.execute(
                "UPDATE payload_files SET live = live - ?, finished_at = ? WHERE file = ?", (row["n"], now, row["file"])
            )

    def sweep(self, now: float, newest: int, limits: Limits) -> list[int]:
        """Remove whole files that are finished and beyond a limit, oldest first; returns their numbers."""
        query = "SELECT * FROM payload_files WHERE live = 0 AND file <> ? ORDER BY file"
        total = int(self.connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM payload_files").fetchone()[0])
        removed = []
        for row in self.connection.execute(query, (self._current(),)).fetchall():
            if not limits.exceeded(total, now - row["finished_at"], newest - row["newest_version"]):
                continue
            self._path(row["file"]).unlink(missing_ok=True)
            self.connection.execute("DELETE FROM payload_files WHERE file = ?", (row["file"],))
            self.connection.execute("DELETE FROM payloads WHERE file = ?", (row["file"],))
            total -= row["bytes"]
            removed.append(int(row["file"]))
        return removed

    def _current(self) -> int:
        row = self.connection.execute("SELECT file, bytes FROM payload_files ORDER BY file DESC LIMIT 1").fetchone()
        if row is None:
            return 1
        return int(row["file"]) + int(row["bytes"] >= self.file_bytes)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.tokens"


@dataclass(frozen=True)
class Limits:
    """What is kept of finished tokens: total bytes, seconds since they were finished, versions behind; None: all."""

    bytes: int | None = None
    seconds: float | None = None
    versions: int | None = None

    def exceeded(self, total: int, age: float, behind: int) -> bool:
        """Whether a finished file of this age may go, while all files together have `total` bytes."""
        return (
            (self.bytes is not None and total > self.bytes)
            or (self.seconds is not None and age > self.seconds)
            or (self.versions is not None and behind > self.versions)
        )
