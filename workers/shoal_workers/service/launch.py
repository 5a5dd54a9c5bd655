"""The start of a role's process."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from shoal.api.services.common import RoleConfig
from shoal_workers.service.app import Service
from shoal_workers.service.config import ConfigurationError, Identity, load_config, write_termination_message
from shoal_workers.service.logs import set_up_logging
from shoal_workers.service.server import run
from shoal_workers.telemetry.setup import set_up_tracing

RoleConfigT = TypeVar("RoleConfigT", bound=RoleConfig)

MISCONFIGURED = 2
"""The exit code that tells the operator not to try again."""
INCURABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
"""Errors of files that stay until somebody changes a permission or a path; a missing file or a full disk may pass."""

logger = logging.getLogger(__name__)


def fail(message: str, code: int = MISCONFIGURED) -> NoReturn:
    """End the process with one line on standard error and in the termination log."""
    line = " ".join(message.split())
    write_termination_message(line)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    sys.exit(code)


def launch(role: str, model: type[RoleConfigT], build: Callable[[RoleConfigT, Identity], Service]) -> NoReturn:
    """Read the configuration, build the service and serve it; exit 0 after a graceful stop, 2 on a wrong configuration.

    `build` raises ConfigurationError for what only it can know (a module that is not there, an unreachable path).
    """
    identity = Identity.from_environment()
    set_up_logging(role)
    set_up_tracing(role, identity.name)
    try:
        config = load_config(model)
        service = build(config, identity)
        logger.info("listening", extra={"host": identity.ip, "port": config.port})
        run(service, identity.ip, config.port, config.shutdown_seconds)
    except ConfigurationError as error:
        fail(f"{role}: {error}")
    except OSError as error:
        fail(f"{role}: {error}", code=MISCONFIGURED if error.errno in INCURABLE else 1)
    sys.exit(0)
