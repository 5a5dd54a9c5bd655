"""The only code that talks to a Kubernetes API."""

from shoal.kube.client import FIELD_MANAGER, KubeClient, Page
from shoal.kube.credentials import Credentials, CredentialsError, CredentialsSource, StaticSource
from shoal.kube.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    FieldCause,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from shoal.kube.kubeconfig import find_source, kubeconfig_source
from shoal.kube.resources import Json, Resource
from shoal.kube.watch import EventType, WatchEvent

__all__ = [
    "FIELD_MANAGER",
    "AlreadyExistsError",
    "ApiError",
    "BadRequestError",
    "ConflictError",
    "Credentials",
    "CredentialsError",
    "CredentialsSource",
    "EventType",
    "FieldCause",
    "ForbiddenError",
    "GoneError",
    "InvalidError",
    "Json",
    "KubeClient",
    "NotFoundError",
    "Page",
    "Resource",
    "StaticSource",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
    "WatchEvent",
    "find_source",
    "kubeconfig_source",
]
