"""The reflector against a server that misbehaves: nothing lost, no deletion invented."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shoal.engine.backoff import Backoff
from shoal.engine.keys import ObjectKey
from shoal.engine.reflector import Reflector
from shoal.engine.store import Change, ChangeType, Store
from shoal.kube.client import KubeClient
from shoal.kube.credentials import Credentials, ReloadingSource
from shoal.kube.retry import RetryPolicy
from tests.engine.fake_api_server import NAMESPACE, RESOURCE, FakeApiServer
from tests.engine.waiting import until

WATCH_FAULTS = ["410", "410 event", "500", "401", "end", "drop", "half a line", "garbage"]


class Mirror:
    """A reflector on a fake server with a record of every change it reported."""

    def __init__(self, server: FakeApiServer, client: KubeClient, **options: float) -> None:
        self.server = server
        self.store: Store[str] = Store(lambda body: body["data"]["v"])
        self.changes: list[Change[str]] = []
        self.invented: list[str] = []
        self.reflector = Reflector(
            client,
            RESOURCE,
            self.store,
            namespace=NAMESPACE,
            page=3,
            watch_seconds=options.get("watch_seconds", 20.0),
            idle_seconds=options.get("idle_seconds", 10.0),
            backoff=Backoff(base=0.002, cap=0.05),
        )
        self.reflector.on_change(self._take)

    def _take(self, change: Change[str]) -> None:
        self.changes.append(change)
        if change.type is ChangeType.DELETED:
            alive = {body["metadata"]["uid"] for body in self.server.objects.values()}
            if change.entry.uid in alive:
                self.invented.append(change.entry.uid)

    @property
    def equal(self) -> bool:
        """Whether the store shows exactly what the server holds, versions and all."""
        truth = {
            (body["metadata"]["name"], body["metadata"]["uid"], body["metadata"]["resourceVersion"], body["data"]["v"])
            for body in self.server.objects.values()
        }
        shown = {(each.key.name, each.uid, each.resource_version, each.value) for each in self.store.entries()}
        return shown == truth

    def types(self, name: str) -> list[ChangeType]:
        return [change.type for change in self.changes if change.key.name == name]


@asynccontextmanager
async def mirroring(server: FakeApiServer, **options: float) -> AsyncIterator[Mirror]:
    client = KubeClient(server.source(), retry=RetryPolicy(attempts=2, base=0.001))
    async with client:
        mirror = Mirror(server, client, **options)
        task = asyncio.create_task(mirror.reflector.run())
        try:
            yield mirror
        finally:
            task.cancel()
            await asyncio.wait({task})


async def write_until_faults_have_struck(server: FakeApiServer) -> None:
    """Faults strike after an event, so there must be some."""
    async with asyncio.timeout(30):
        count = 0
        while server.watch_faults:
            count += 1
            await server.put("stir", str(count))
            await asyncio.sleep(0.005)


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer().serve() as server:
        yield server


async def test_lists_in_pages_then_follows(server: FakeApiServer) -> None:
    for index in range(8):
        await server.put(f"o{index}", "1")
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        assert mirror.equal
        await server.put("o1", "2")
        await server.delete("o2")
        await server.put("new", "1")
        await until(lambda: mirror.equal)
        assert mirror.types("o1") == [ChangeType.ADDED, ChangeType.MODIFIED]
        assert mirror.types("o2") == [ChangeType.ADDED, ChangeType.DELETED]
        assert server.lists == 1


@pytest.mark.parametrize("fault", WATCH_FAULTS)
async def test_every_way_a_watch_can_end_is_survived(server: FakeApiServer, fault: str) -> None:
    await server.put("a", "1")
    server.watch_faults.extend([fault, fault, fault])
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        for index in range(6):
            await server.put(f"o{index}", "1")
        await server.delete("o1")
        await server.put("a", "2")
        await write_until_faults_have_struck(server)
        await server.put("last", "1")
        await until(lambda: mirror.equal)
        assert mirror.invented == []
        assert mirror.types("a") == [ChangeType.ADDED, ChangeType.MODIFIED]


async def test_a_watch_that_ends_is_resumed_without_listing_again(server: FakeApiServer) -> None:
    server.watch_faults.extend(["end", "drop", "end"])
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        await write_until_faults_have_struck(server)
        await until(lambda: mirror.equal)
        assert server.lists == 1


async def test_a_gap_yields_its_true_differences_alone(server: FakeApiServer) -> None:
    for name in "kept", "changed", "deleted", "replaced":
        await server.put(name, "1")
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        await until(lambda: server.watches == 1)
        mirror.changes.clear()
        # What happens now is in no history: the open watch is told that its version is too old.
        await server.put("changed", "2")
        await server.delete("deleted")
        await server.put("replaced", "1", uid="younger")
        await server.put("added", "1")
        await server.compact()
        await until(lambda: mirror.equal)
        assert server.lists == 2
        assert mirror.types("kept") == []
        assert mirror.types("changed") == [ChangeType.MODIFIED]
        assert mirror.types("deleted") == [ChangeType.DELETED]
        assert mirror.types("replaced") == [ChangeType.DELETED, ChangeType.ADDED]
        assert mirror.types("added") == [ChangeType.ADDED]


@pytest.mark.parametrize("fault", ["500", "401", "429", "drop", "410 in the middle"])
async def test_a_failed_list_is_repeated_and_deletes_nothing(server: FakeApiServer, fault: str) -> None:
    for index in range(8):
        await server.put(f"o{index}", "1")
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        server.list_faults.extend([fault] * 3)
        await server.put("while", "1")
        await until(lambda: mirror.equal)
        await mirror.reflector.refresh()
        assert mirror.equal
        assert [change for change in mirror.changes if change.type is ChangeType.DELETED] == []


async def test_a_silent_connection_is_given_up(server: FakeApiServer) -> None:
    server.watch_faults.append("silence")
    async with mirroring(server, idle_seconds=0.2) as mirror:
        await mirror.reflector.synced.wait()
        await server.put("a", "1")
        await until(lambda: mirror.equal)
        await server.put("b", "1")  # the silent watch never tells of this one
        await until(lambda: mirror.equal)


async def test_bookmarks_move_the_version_on(server: FakeApiServer) -> None:
    server.bookmarks = True
    await server.put("a", "1")
    await server.delete("a")
    async with mirroring(server, watch_seconds=1.0) as mirror:
        await mirror.reflector.synced.wait()
        await until(lambda: server.watches >= 2)
        assert mirror.reflector.stats.events == 0
        assert server.lists == 1


@pytest.mark.parametrize("told_by", ["bookmark", "list"])
async def test_a_server_restored_from_a_backup_is_believed(server: FakeApiServer, told_by: str) -> None:
    """The versions after the backup are used a second time, for other contents."""
    server.bookmarks = told_by == "bookmark"
    for name in ("kept", "changed", "lost"):
        await server.put(name, "1")
    backup = server.version
    await server.put("changed", "before")  # version 104 the first time
    await server.put("lost", "2")
    async with mirroring(server, watch_seconds=1.0) as mirror:
        await until(lambda: mirror.equal)
        if told_by == "list":
            server.watch_faults.extend(["500"] * 2)
        await server.restore(backup, "lost", changed="after")
        await until(lambda: mirror.equal)
        assert mirror.types("lost")[-1] is ChangeType.DELETED
        assert mirror.types("changed")[-1] is ChangeType.MODIFIED


async def test_credentials_are_read_again_after_a_refusal(server: FakeApiServer) -> None:
    tokens = iter(["first", "second", "third"])
    source = ReloadingSource(lambda: Credentials(server=server.url, token=next(tokens)))
    async with KubeClient(source) as client:
        mirror = Mirror(server, client)
        task = asyncio.create_task(mirror.reflector.run())
        await mirror.reflector.synced.wait()
        server.accept_token = lambda token: token == "second"
        server.watch_faults.append("end")
        await until(lambda: server.watches == 1)
        await server.put("a", "1")
        await until(lambda: server.tokens_seen[-1] == "second")
        await server.put("b", "1")
        await until(lambda: mirror.equal)
        task.cancel()
        await asyncio.wait({task})


async def test_a_handler_that_fails_stops_nothing(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async with mirroring(server) as mirror:
        keys: list[ObjectKey] = []
        mirror.reflector.on_change(lambda _: 1 / 0)  # type: ignore[arg-type]
        mirror.reflector.on_key(keys.append)
        await server.put("a", "1")
        await until(lambda: keys == [ObjectKey(NAMESPACE, "a")])
        assert "a handler of configmaps failed for n/a" in caplog.text


async def test_an_object_that_cannot_be_read_stops_nothing(server: FakeApiServer) -> None:
    async with mirroring(server) as mirror:
        await mirror.reflector.synced.wait()
        await server.put("a", "1")
        await server.put("bad", "1")
        await until(lambda: mirror.equal)
        del server.objects["bad"]["data"]
        await mirror.reflector.refresh()
        server.objects["bad"]["metadata"]["resourceVersion"] = "999"
        await mirror.reflector.refresh()
        assert mirror.types("bad") == [ChangeType.ADDED]
        await server.put("a", "2")
        await until(lambda: mirror.store.get(ObjectKey(NAMESPACE, "a")) == "2")


@pytest.mark.parametrize("seed", range(6))
async def test_random_faults_and_changes(server: FakeApiServer, seed: int) -> None:
    dice = random.Random(seed)
    server.events_before_fault = dice.randrange(3)
    async with mirroring(server, watch_seconds=2.0) as mirror:
        for _ in range(150):
            name = f"o{dice.randrange(12)}"
            roll = dice.random()
            if roll < 0.25 and name in server.objects:
                await server.delete(name)
            elif roll < 0.35 and name in server.objects:
                await server.put(name, "r", uid=f"uid{dice.random()}")
            else:
                await server.put(name, str(dice.randrange(1000)))
            if dice.random() < 0.2 and len(server.watch_faults) < 3:
                server.watch_faults.append(dice.choice(WATCH_FAULTS))
            if dice.random() < 0.05 and len(server.list_faults) < 2:
                server.list_faults.append(dice.choice(["500", "429", "drop", "410 in the middle"]))
            if dice.random() < 0.05:
                await server.compact()
            await asyncio.sleep(dice.choice([0, 0, 0.002, 0.01]))
        await until(lambda: mirror.equal)
        assert mirror.invented == []
        _assert_consistent(mirror.changes)


def _assert_consistent(changes: list[Change[str]]) -> None:
    """Each object's life reads added, modified…, deleted, by UID, with `old` always what was told before."""
    told: dict[str, object] = {}
    for change in changes:
        entry = change.entry
        assert told.get(entry.uid) is (change.old if change.old is not None and change.old.uid == entry.uid else None)
        if change.type is ChangeType.DELETED:
            del told[entry.uid]
        else:
            told[entry.uid] = entry
