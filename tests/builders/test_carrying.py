"""Large configurations travel in Secrets, and arrive whole."""

from base64 import b64decode
from pathlib import Path
from typing import Any

import orjson
import pytest

from shoal.api.labels import SPEC_HASH
from shoal.api.services.roles.data import DataConfig
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders import job
from shoal.builders.carrying import CONFIG_MOUNT, PART_BYTES, carried
from shoal.builders.images import Images
from shoal.controllers.world import trim_secret
from shoal_workers.service.config import load_config
from tests.api.samples import JOB

Json = dict[str, Any]
OWNER = job.job_owner("j", "ns", "0123456789")


def data_pod(tasks: int, size: int) -> Json:
    inline = [{"id": number, "prompt": "é$(POD_NAME)$$" + "p" * size} for number in range(tasks)]
    spec = RLJobSpec.model_validate(JOB["spec"] | {"data": {"tasks": {"inline": inline}}})
    return job.build_data(OWNER, spec, Images("1"))


def variables(pod: Json) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}


def test_a_small_configuration_stays_in_its_variable() -> None:
    pod = data_pod(2, 10)
    assert carried(OWNER, "data", pod) == (pod, [])


@pytest.mark.parametrize(("size", "parts"), [(300, 1), (2_000, 2)])
def test_a_large_one_arrives_whole(tmp_path: Path, size: int, parts: int) -> None:
    pod = data_pod(600, size)
    made, secrets = carried(OWNER, "data", pod)
    assert len(secrets) == parts
    assert all(len(b64decode(each["data"]["config"])) <= PART_BYTES for each in secrets)
    assert max(len(value) for value in variables(made).values()) < 1000
    assert made["metadata"] == pod["metadata"], "the hash is that of the whole configuration"
    (volume,) = [each for each in made["spec"]["volumes"] if each["name"] == "shoal-config"]
    by_name = {each["metadata"]["name"]: each for each in secrets}
    for source in volume["projected"]["sources"]:
        secret = by_name[source["secret"]["name"]]
        (item,) = source["secret"]["items"]
        (tmp_path / item["path"]).write_bytes(b64decode(secret["data"][item["key"]]))
    assert variables(made)["SHOAL_CONFIG_FOLDER"] == CONFIG_MOUNT
    whole = DataConfig.model_validate(orjson.loads(variables(pod)["SHOAL_CONFIG"]))
    assert load_config(DataConfig, {"SHOAL_CONFIG_FOLDER": str(tmp_path)}) == whole


def test_an_edited_part_is_another_hash_and_is_no_token() -> None:
    _, (secret,) = carried(OWNER, "data", data_pod(600, 300))
    secret["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z"}
    assert trim_secret(secret).config == secret["metadata"]["annotations"][SPEC_HASH]
    edited = {**secret, "data": {"config": "e30="}}
    assert trim_secret(edited).config == ""
