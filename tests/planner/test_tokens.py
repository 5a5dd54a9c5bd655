"""Renewals: when they are due, and that whoever holds a token of a Secret's recent past can call whoever else does."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.labels import TOKEN_DIGEST
from shoal.api.tokens import token_digest
from shoal.planner.actions import ForgetToken, RenewToken
from shoal.planner.tokens import DAY, TokenPolicy, TokenView, plan_tokens, view_token

POLICY = TokenPolicy(max_age=10 * DAY, overlap=600.0)
NEW = TokenView("lake-token", "7", "s3cret", "", 0.0, asked=False)


def planned(view: TokenView, now: float, policy: TokenPolicy = POLICY) -> list[RenewToken | ForgetToken]:
    """What is to be written."""
    actions, _ = plan_tokens([view], policy, now)
    return [action for action in actions if isinstance(action, RenewToken | ForgetToken)]


def test_a_token_is_renewed_at_its_age_and_when_asked_for() -> None:
    assert planned(NEW, 10 * DAY - 1) == []
    assert planned(NEW, 10 * DAY) == [RenewToken("lake-token", "7", NEW.token)]
    assert planned(replace(NEW, asked=True), 1.0) == [RenewToken("lake-token", "7", NEW.token)]
    assert planned(NEW, 1000 * DAY, TokenPolicy(max_age=0)) == []


def test_the_former_token_goes_after_the_overlap_and_blocks_renewals_until_then() -> None:
    renewed = replace(NEW, token="two", previous="one", asked=True)
    assert planned(renewed, 599.0) == []
    assert planned(renewed, 600.0) == [RenewToken("lake-token", "7", "two")]
    assert planned(replace(renewed, asked=False), 600.0) == [ForgetToken("lake-token", "7")]


@pytest.mark.parametrize(
    ("view", "wait"),
    [(NEW, 10 * DAY - 5), (replace(NEW, previous="zero"), 595.0)],
)
def test_the_next_look_is_when_something_is_due(view: TokenView, wait: float) -> None:
    assert plan_tokens([view, NEW], POLICY, 5.0)[1] == wait


def test_secrets_that_lack_something_are_mended() -> None:
    assert planned(replace(NEW, token=""), 1.0) == [RenewToken("lake-token", "7", "")]
    assert planned(replace(NEW, previous=None), 1.0) == [ForgetToken("lake-token", "7")]


def test_an_edited_token_is_replaced_at_once_even_while_the_one_before_is_taken() -> None:
    edited = replace(NEW, edited=True)
    for view in (edited, replace(edited, previous="zero")):
        assert planned(view, 1.0) == [RenewToken("lake-token", "7", NEW.token, edited=True)]
    secret = body(token="drawn", previous="")
    secret["metadata"]["annotations"] = {TOKEN_DIGEST: token_digest("drawn")}
    assert not view_token(secret).edited
    secret["data"]["token"] = b64encode(b"known").decode()
    assert view_token(secret).edited
    assert not view_token(body(token="of an earlier release")).edited


def body(**data: str) -> dict[str, Any]:
    """A Secret of the API server's."""
    metadata = {"name": "lake-token", "resourceVersion": "7", "creationTimestamp": "1970-01-02T00:00:00Z"}
    return {"metadata": metadata, "data": {key: b64encode(value.encode()).decode() for key, value in data.items()}}


def test_a_secret_is_read_as_it_is() -> None:
    assert view_token(body(token=NEW.token, previous="")) == replace(NEW, renewed_at=DAY)
    assert view_token(body(token="one")).previous is None
    assert view_token(body()).token == ""
    broken = body()
    broken["data"]["token"] = "no base64"
    assert view_token(broken).token == ""
    renewed = body(token="two", previous="one")
    renewed["metadata"]["annotations"] = {
        "rl.shoal.dev/token-renewed-at": "1970-01-03T00:00:00Z",
        "rl.shoal.dev/renew-token": "",
    }
    assert view_token(renewed) == TokenView("lake-token", "7", "two", "one", 2 * DAY, asked=True)
    renewed["metadata"]["annotations"]["rl.shoal.dev/token-renewed-at"] = "yesterday"
    assert view_token(renewed).renewed_at == DAY


@given(
    asks=st.lists(st.booleans(), min_size=30, max_size=30),
    delays=st.lists(st.integers(0, 9), min_size=8, max_size=8),
)
def test_nobody_is_refused_while_files_lag_behind_by_less_than_the_overlap(asks: list[bool], delays: list[int]) -> None:
    """A minute a step; each pod sees the Secret as it was `delay` minutes ago, and the overlap is ten minutes."""
    view, drawn = NEW, 1
    history = [view.taken] * 10
    for minute, asked in enumerate(asks * 2):
        now = 60.0 * minute
        view = replace(view, asked=view.asked or asked)
        for action in planned(view, now):
            if isinstance(action, RenewToken):
                drawn += 1
                view = TokenView("lake-token", "7", f"token {drawn}", action.current, now, asked=False)
            else:
                view = replace(view, previous="")
        history.append(view.taken)
        seen = [history[-1 - delay] for delay in delays]
        for caller in seen:
            assert all(set(caller) & set(service) for service in seen), (seen, minute)
