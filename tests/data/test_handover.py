"""The hand-over of batches over a real socket: token arrays for a trainer that asks for them, JSON for an older one."""

from __future__ import annotations

from pathlib import Path

from shoal.api.services.trajectories import Batch, Claimed
from shoal_workers.data.manager import DataManager
from shoal_workers.data.server import make_service
from shoal_workers.service import ServiceClient, serving
from shoal_workers.tokens.arrays import MEDIA_TYPE, decode, to_batch
from tests.data.play import ask, claim, config, record


async def test_a_batch_comes_as_arrays_or_as_json(tmp_path: Path) -> None:
    service = make_service(DataManager(config(tmp_path)), None)
    async with serving(service) as url, ServiceClient(url) as client:
        claimed = await client.post("/assignments:claim", claim(count=4), Claimed)
        for number, assignment in enumerate(claimed.assignments):
            await client.call("POST", "/trajectories", record(assignment, reward=number / 4))
        wanted = ask(key="once")
        accept = {"Accept": f"{MEDIA_TYPE}, application/json"}
        arrays = await client.call("POST", "/batches:lease", wanted, headers=accept)
        plain = await client.call("POST", "/batches:lease", wanted)
        nothing = await client.call("POST", "/batches:lease", ask(groups=1), headers=accept)
    assert arrays.media_type == MEDIA_TYPE
    assert plain.media_type == "application/json"
    expected = plain.read(Batch)
    assert to_batch(decode(arrays.body)) == expected.model_copy(
        update={"expires_at": decode(arrays.body).metadata.expires_at}
    )
    assert nothing.status == 204
