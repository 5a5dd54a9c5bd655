"""What is wrong with a configuration: told with the field's path, wherever it shows."""

from __future__ import annotations

from pydantic import ValidationError


class ConfigurationError(Exception):
    """The configuration cannot work; `field` is the path of what is wrong and `cause` says why."""

    def __init__(self, field: str, cause: str) -> None:
        super().__init__(f"{field}: {cause}")
        self.field = field
        self.cause = cause

    def __reduce__(self) -> tuple[type[ConfigurationError], tuple[str, str]]:
        """As it crosses processes: an exception would be made anew of its message alone."""
        return type(self), (self.field, self.cause)


def from_validation(error: ValidationError, prefix: str) -> ConfigurationError:
    """The first wrong field of a validation error, and how many more there are."""
    first, *more = error.errors(include_url=False)
    path = ".".join([prefix, *(str(part) for part in first["loc"])])
    suffix = f" (and {len(more)} more)" if more else ""
    return ConfigurationError(path, f"{first['msg']}{suffix}")
