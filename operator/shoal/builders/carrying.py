"""How a large configuration reaches its pod: in files of Secrets, because one variable holds 128 KiB at most.

A Secret and no ConfigMap: a configuration may hold what nobody else should read (an environment's key), and the
operator needs no further permission. The pod's hash is that of the whole configuration, wherever it travels.
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from shoal.api.labels import CONFIG_FOLDER_VARIABLE, CONFIG_VARIABLE, MAIN
from shoal.builders.children import build_child, with_hash
from shoal.builders.defaults import filled
from shoal.builders.owner import Owner

Manifest = dict[str, Any]

INLINE_BYTES = 96 * 1024
"""Above this a configuration travels in files: Linux takes 128 KiB as one string of an environment (MAX_ARG_STRLEN)."""
PART_BYTES = 900_000
"""Of one Secret: the API server stores 1 MiB at most. What it stored as one resource fits two of them."""
CONFIG_VOLUME = "shoal-config"
CONFIG_MOUNT = "/var/run/shoal/config"
PART_KEY = "config"


def carried(owner: Owner, part: str, manifest: Manifest) -> tuple[Manifest, list[Manifest]]:
    """The pod as it is made, and the Secrets that it reads its configuration from; none while a variable holds it.

    Args:
        owner: whose pod it is.
        part: what tells the owner's configurations apart: the role, with the variant or group.
        manifest: the built pod, or what it is made from.
    """
    configs: list[str] = []

    def fill(spec: Manifest) -> None:
        for container in spec["containers"]:
            variables = container.get("env") or []
            config = next((each.get("value", "") for each in variables if each["name"] == CONFIG_VARIABLE), "")
            if container["name"] != MAIN or len(config.encode()) <= INLINE_BYTES:
                continue
            configs.append(config)
            rest = [each for each in variables if each["name"] != CONFIG_VARIABLE]
            container["env"] = [*rest, {"name": CONFIG_FOLDER_VARIABLE, "value": CONFIG_MOUNT}]
            mount = {"name": CONFIG_VOLUME, "mountPath": CONFIG_MOUNT, "readOnly": True}
            container["volumeMounts"] = [*container["volumeMounts"], mount]
            spec["volumes"] = [*spec["volumes"], _volume(owner, part, config)]

    made = filled(manifest, fill)
    if not configs:
        return manifest, []
    return made, [
        with_hash(build_child(owner, "v1", "Secret", _name(owner, part, index), _content(piece)))
        for index, piece in enumerate(_pieces(configs[0]))
    ]


def carried_all(
    owner: Owner, role: str, manifests: Mapping[str, Manifest]
) -> tuple[dict[str, Manifest], list[Manifest]]:
    """The same for the pods of one role by variant or group, or, where `role` is empty, by role."""
    made: dict[str, Manifest] = {}
    secrets: list[Manifest] = []
    for name, manifest in manifests.items():
        made[name], more = carried(owner, f"{role}-{name}" if role else name, manifest)
        secrets += more
    return made, secrets


def _pieces(config: str) -> list[bytes]:
    data = config.encode()
    return [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]


def _name(owner: Owner, part: str, index: int) -> str:
    return f"{owner.secret_for(part).removesuffix('-token')}-config-{index}"


def _content(piece: bytes) -> Manifest:
    return {"type": "Opaque", "data": {PART_KEY: b64encode(piece).decode()}}


def _volume(owner: Owner, part: str, config: str) -> Manifest:
    sources = [
        {"secret": {"name": _name(owner, part, index), "items": [{"key": PART_KEY, "path": f"{index:04}"}]}}
        for index in range(len(_pieces(config)))
    ]
    return {"name": CONFIG_VOLUME, "projected": {"sources": sources}}
