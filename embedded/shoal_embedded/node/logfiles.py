"""Log files that their writers append to directly, so that logging goes on, and costs nothing, when the node is away.

The writer holds the file open, so it can't be renamed away. It is kept small by punching a hole at its beginning:
positions never change and no line is lost between copying and truncating. When a line was written is known from an
index of (time, size) noted every second, so times are right to about a second.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

LIMIT = 16 * 1024 * 1024
"""Bytes kept of each run's log; kubelet keeps 10 MiB per file."""
_BLOCK = 64 * 1024
_ENTRY = struct.Struct("<dQ")
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


class LogFile:
    """The log of one run of a container."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._times = path.with_suffix(".times")
        self._noted = -1

    @property
    def size(self) -> int:
        """Position after the last byte written so far."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def note(self, now: float) -> None:
        """Remember how long the file is now, if that changed."""
        size = self.size
        if self._noted < 0:
            entries = self._entries()
            self._noted = entries[-1][1] if entries else 0
        if size != self._noted:
            with self._times.open("ab") as file:
                file.write(_ENTRY.pack(now, size))
            self._noted = size

    def trim(self, limit: int = LIMIT) -> None:
        """Free the beginning of a file that holds more than `limit` bytes, down to half of that."""
        end = self.size
        if end <= limit:
            return
        with self.path.open("rb+") as file:
            first = _first_data(file.fileno(), end)
            if end - first <= limit:
                return
            length = (end - limit // 2) // _BLOCK * _BLOCK
            # Where the file system has no holes this fails, and the log stays whole: too long is better than lost.
            _libc.fallocate(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(length))

    def start(self) -> int:
        """Return the position of the first whole line that is still there."""
        end = self.size
        if not end:
            return 0
        with self.path.open("rb") as file:
            first = _first_data(file.fileno(), end)
            if first == 0:
                return 0
            file.seek(first)
            file.readline()
            return file.tell()

    def tail(self, lines: int) -> int:
        """Return the position from which `lines` lines are left."""
        begin, end = self.start(), self.size
        if lines <= 0 or end <= begin:
            return end
        with self.path.open("rb") as file:
            position, needed = end, lines + 1
            while position > begin:
                step = min(_BLOCK, position - begin)
                position -= step
                file.seek(position)
                block = file.read(step)
                if position + step == end and not block.endswith(b"\n"):
                    needed -= 1
                count = block.count(b"\n")
                if count >= needed:
                    return position + _nth_last(block, needed) + 1
                needed -= count
        return begin

    def since(self, time: float) -> int:
        """Return the position of the first line written after `time` (epoch seconds), right to about a second."""
        position = self.start()
        for noted, size in self._entries():
            if noted >= time:
                break
            position = max(position, size)
        return position

    def read(self, position: int, limit: int = 1024 * 1024) -> bytes:
        """Return what is in the file from `position` on, `limit` bytes at most."""
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def stamped(self, position: int, content: bytes, now: float) -> Iterator[tuple[float, bytes]]:
        """Split whole lines read at `position` into (time, line); what is not in the index yet was written `now`."""
        entries = self._entries()
        sizes = [size for _, size in entries]
        for line in content.splitlines(keepends=True):
            index = bisect.bisect_right(sizes, position)
            yield (entries[index][0] if index < len(entries) else now), line
            position += len(line)

    def last_words(self, limit: int = 2048, lines: int = 80) -> str:
        """Return the end of the log, as kubelet uses it for a termination message."""
        position = max(self.tail(lines), self.size - limit)
        return self.read(position).decode(errors="replace").strip()

    def _entries(self) -> list[tuple[float, int]]:
        try:
            content = self._times.read_bytes()
        except FileNotFoundError:
            return []
        whole = len(content) // _ENTRY.size * _ENTRY.size
        return [(time, size) for time, size in _ENTRY.iter_unpack(content[:whole])]


def _first_data(descriptor: int, end: int) -> int:
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:
        return end


def _nth_last(block: bytes, count: int) -> int:
    position = len(block)
    for _ in range(count):
        position = block.rindex(b"\n", 0, position)
    return position
