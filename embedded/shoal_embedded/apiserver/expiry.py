"""Events are forgotten after an hour, as kube-apiserver does by default (`--event-ttl`); else they pile up for ever."""

import asyncio
from datetime import UTC, datetime, timedelta

from shoal_embedded.apiserver.storage import Storage

LIFETIME = timedelta(hours=1)
CHECKED_EVERY = 300.0
"""Seconds; an event may stay that much longer."""


def expire(storage: Storage, now: datetime) -> int:
    """Forget events last written more than an hour ago; returns how many."""
    limit = (now - LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = [
        body
        for body in storage.objects("events")
        if max(str(body.get("lastTimestamp") or ""), body["metadata"]["creationTimestamp"]) < limit
    ]
    for body in old:
        storage.remove("events", body)
    return len(old)


async def keep_expiring(storage: Storage) -> None:
    """Do so every few minutes, until cancelled."""
    while True:
        expire(storage, datetime.now(UTC))
        await asyncio.sleep(CHECKED_EVERY)
