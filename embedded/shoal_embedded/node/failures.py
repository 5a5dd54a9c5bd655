"""Reasons for which a container cannot be started now."""

from __future__ import annotations


class StartError(Exception):
    """The container cannot be started; `reason` is what its status shows as waiting."""

    reason = "CreateContainerError"


class ConfigError(StartError):
    """Something the container refers to is missing or unusable."""

    reason = "CreateContainerConfigError"


class ImageError(StartError):
    """The container names no command, and a node without images cannot know one."""

    reason = "InvalidImageName"
