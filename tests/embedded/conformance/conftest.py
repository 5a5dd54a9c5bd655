"""The embedded API server, for the tests that compare it with a real one."""

from tests.embedded.apiserver.conftest import embedded

__all__ = ["embedded"]
