"""What every role's process shares: HTTP service, client, configuration, logging, start-up."""

from shoal_workers.service.app import Service, read, reply
from shoal_workers.service.client import Reply, ServiceClient, backoff, open_session
from shoal_workers.service.config import ConfigurationError, Identity, load_config
from shoal_workers.service.credentials import Credential, Token, authorized, credential
from shoal_workers.service.launch import launch
from shoal_workers.service.problems import ProblemError
from shoal_workers.service.server import run, serve, serving

__all__ = [
    "ConfigurationError",
    "Credential",
    "Identity",
    "ProblemError",
    "Reply",
    "Service",
    "ServiceClient",
    "Token",
    "authorized",
    "backoff",
    "credential",
    "launch",
    "load_config",
    "open_session",
    "read",
    "reply",
    "run",
    "serve",
    "serving",
]
