"""What can go wrong with a control plane, in words for the person who asked for it."""

from __future__ import annotations


class PlaneError(Exception):
    """The control plane cannot be started or has failed; the text says what to do or shows the end of a log."""


class StateDirInUseError(PlaneError):
    """Another control plane works with this folder."""
