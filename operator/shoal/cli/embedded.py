"""The embedded control plane is a part of its own, which images and the operator's wheel leave out."""

from collections.abc import Iterator
from contextlib import contextmanager

from shoal.cli.errors import UserError

PACKAGE = "shoal_embedded"


@contextmanager
def embedded_installed() -> Iterator[None]:
    """Turn a failing import of the embedded control plane into a `UserError` that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != PACKAGE:
            raise
        raise UserError(
            "this installation has no embedded control plane: install Shoal from a checkout (pip install '.[local]'), "
            "or name a cluster with --kubeconfig where the command takes it"
        ) from error
