"""Both servers, for the tests of the documentation's commands."""

from tests.embedded.conformance.conftest import embedded, pair, prepared

__all__ = ["embedded", "pair", "prepared"]
