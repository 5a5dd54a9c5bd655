"""When a service's bearer token is renewed, and how long the one before is still taken.

A renewal writes the new token and keeps the old one beside it. Nodes bring a changed Secret to their pods within a
minute or two, each at its own time; meanwhile services take both and callers show whichever is taken, so nothing is
refused. Once all have the new one, the old one goes.
"""

from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import PREVIOUS_TOKEN_KEY, RENEW_TOKEN, TOKEN_DIGEST, TOKEN_KEY, TOKEN_RENEWED_AT
from shoal.api.tokens import token_digest
from shoal.planner.actions import Action, ForgetToken, RenewToken
from shoal.planner.times import parse_timestamp, soonest

Json = dict[str, Any]

DAY = 86_400.0


@dataclass(frozen=True)
class TokenPolicy:
    """How long tokens live. Times are seconds.

    Args:
        max_age: a token that is older is renewed; 0 renews on request alone.
        overlap: how long the one before is taken after a renewal. A kubelet brings a changed Secret to its pods within
            its sync period and the delay of its cache, about two minutes at worst.
    """

    max_age: float = 30 * DAY
    overlap: float = 600.0


@dataclass(frozen=True, slots=True)
class TokenView:
    """A Secret that holds a token, as plans see it.

    Args:
        name: the Secret's.
        resource_version: the version that this is a view of.
        token: the token in clear; "" for a Secret that lacks it.
        previous: the one before, while it is taken; "" at other times, None where the key is missing.
        renewed_at: when the token was made, seconds since the epoch.
        asked: whether a user asks for a new one.
        edited: whether the token is not the one that Shoal drew.
        config: for a Secret that carries a configuration and no token, the hash of what is in it; "" when that is not
            what Shoal wrote.
    """

    name: str
    resource_version: str
    token: str
    previous: str | None
    renewed_at: float
    asked: bool
    edited: bool = False
    config: str | None = None

    @property
    def taken(self) -> tuple[str, ...]:
        """What services take, newest first."""
        return tuple(token for token in (self.token, self.previous) if token)


def view_token(body: Json) -> TokenView:
    """The view of a Secret."""
    metadata, data = body["metadata"], body.get("data") or {}
    annotations = metadata.get("annotations") or {}
    token = _decoded(data.get(TOKEN_KEY)) or ""
    return TokenView(
        name=metadata["name"],
        resource_version=metadata.get("resourceVersion", ""),
        token=token,
        previous=_decoded(data.get(PREVIOUS_TOKEN_KEY)),
        renewed_at=_time(annotations.get(TOKEN_RENEWED_AT)) or _time(metadata.get("creationTimestamp")) or 0.0,
        asked=RENEW_TOKEN in annotations,
        # Secrets of earlier releases have no digest: nothing is known of theirs.
        edited=TOKEN_DIGEST in annotations and annotations[TOKEN_DIGEST] != token_digest(token),
    )


def plan_tokens(tokens: Iterable[TokenView], policy: TokenPolicy, now: float) -> tuple[list[Action], float | None]:
    """The renewals that are due, and the seconds until the next may be.

    While a former token is taken no other renewal begins: a pod that has seen neither would be left with a token that
    nobody takes.
    """
    actions: list[Action] = []
    waits: list[float | None] = []
    for held in tokens:
        age = now - held.renewed_at
        if held.edited:
            actions.append(RenewToken(held.name, held.resource_version, held.token, edited=True))
        elif held.previous and age < policy.overlap:
            waits.append(policy.overlap - age)
        elif held.asked or not held.token or 0 < policy.max_age <= age:
            actions.append(RenewToken(held.name, held.resource_version, held.token))
        elif held.previous or held.previous is None:
            actions.append(ForgetToken(held.name, held.resource_version))
        elif policy.max_age > 0:
            waits.append(policy.max_age - age)
    return actions, soonest(*waits)


def _decoded(value: str | None) -> str | None:
    """None for a missing key; "" for content that is no token."""
    if value is None:
        return None
    try:
        return b64decode(value, validate=True).decode().strip()
    except ValueError:
        return ""


def _time(text: str | None) -> float:
    try:
        return parse_timestamp(text) if text else 0.0
    except ValueError:
        return 0.0
