"""Tokens in files that are renewed under a running process."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from shoal.api.services.common import Message
from shoal_workers.service import ConfigurationError, ProblemError, Service, ServiceClient, credential, serving
from shoal_workers.service.credentials import FRESH_SECONDS, Credential, MountedCredential


class FakeStatus(Message):
    """The status of nothing."""


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, token: str, previous: str = "") -> Path:
    """A Secret's volume."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(token)
    (folder / "previous").write_text(previous)
    return folder


def make_service(known: Credential) -> Service:
    """A service with one route."""

    async def door(_: Request) -> Response:
        return Response("{}", media_type="application/json")

    service = Service("test", FakeStatus, token=known)
    service.fast("POST", "/door", door)
    return service


async def knock(url: str, known: Credential | str | None) -> int:
    """How the service answers."""
    async with ServiceClient(url, token=known, retries=0) as client:
        try:
            return (await client.call("POST", "/door")).status
        except ProblemError as error:
            return error.status


def test_files_are_read_again_after_a_while_or_when_asked_for(tmp_path: Path) -> None:
    clock = FakeClock()
    known = MountedCredential(write(tmp_path, "one"), clock)
    write(tmp_path, "two", "one")
    assert known.tokens == ("one",)
    clock.now += FRESH_SECONDS
    assert known.tokens == ("two", "one")
    write(tmp_path, "three", "two")
    assert known.refresh()
    assert known.tokens == ("three", "two")
    assert not known.refresh()


def test_a_volume_that_is_gone_or_empty_later_changes_nothing(tmp_path: Path) -> None:
    known = MountedCredential(write(tmp_path, "one", "zero"))
    write(tmp_path, "")
    assert not known.refresh()
    (tmp_path / "token").unlink()
    assert not known.refresh()
    assert known.tokens == ("one", "zero")


def test_a_process_without_its_token_does_not_start_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no token"):
        credential("own", {"SHOAL_TOKENS": str(tmp_path)})
    write(tmp_path / "own", "")
    with pytest.raises(ConfigurationError, match="empty"):
        credential("own", {"SHOAL_TOKENS": str(tmp_path)})


def test_a_process_started_by_hand_takes_tokens_from_variables() -> None:
    given = credential("pool-frozen-lake", {"SHOAL_TOKEN_POOL_FROZEN_LAKE": "one"})
    assert given is not None
    assert given.tokens == ("one",)
    assert credential("gateway", {"SHOAL_TOKEN": "mine"}) is None


async def test_caller_and_service_meet_whoever_learns_of_a_renewal_first(tmp_path: Path) -> None:
    theirs = MountedCredential(write(tmp_path / "service", "one"), FakeClock())
    mine = MountedCredential(write(tmp_path / "caller", "one"), FakeClock())
    async with serving(make_service(theirs)) as url:
        assert await knock(url, mine) == 200

        write(tmp_path / "caller", "two", "one")
        mine.refresh()
        assert await knock(url, mine) == 200, "the service does not know the new token: the caller shows the old one"

        write(tmp_path / "service", "two", "one")
        assert await knock(url, "two") == 200, "the service looks before it refuses"
        assert await knock(url, "one") == 200, "a caller that knows the old token alone"

        write(tmp_path / "service", "two")
        theirs.refresh()
        assert await knock(url, mine) == 200
        assert await knock(url, "one") == 401, "the old token is over"
        assert await knock(url, "three") == 401


async def test_a_caller_that_is_refused_looks_for_a_newer_token(tmp_path: Path) -> None:
    mine = MountedCredential(write(tmp_path, "one"), FakeClock())
    async with serving(make_service(Credential("two"))) as url:
        assert await knock(url, mine) == 401
        write(tmp_path, "two", "one")
        assert await knock(url, mine) == 200
