"""A container's environment variables and command line, as kubelet makes them. Pure but for the look-ups."""

from __future__ import annotations

import base64
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shoal_embedded.node.failures import ConfigError, ImageError, StartError
from shoal_embedded.node.podspec import Container, Pod
from shoal_embedded.node.quantities import parse_quantity
from shoal_embedded.node.rewriting import Rewriter, expand

Json = dict[str, Any]

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")
_DIVISOR = "1"


class Objects(Protocol):
    """Look-ups in what the API holds."""

    def secret(self, namespace: str, name: str) -> Json | None:
        """Return a Secret."""
        ...

    def config_map(self, namespace: str, name: str) -> Json | None:
        """Return a ConfigMap."""
        ...

    def services(self, namespace: str) -> dict[str, tuple[str, list[Json]]]:
        """Return the namespace's Services: name -> (address, ports)."""
        ...


@dataclass(frozen=True)
class Setting:
    """What surrounds a container: its pod's addresses, the node's figures, and the variables an image would bring."""

    pod_ip: str
    host_ip: str
    capacity: Mapping[str, float]
    base: Mapping[str, str]


def secret_data(body: Json) -> dict[str, bytes]:
    """Return a Secret's content."""
    return {key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()}


def config_map_data(body: Json) -> dict[str, bytes]:
    """Return a ConfigMap's content."""
    data = {key: str(value).encode() for key, value in (body.get("data") or {}).items()}
    return data | {key: base64.b64decode(value) for key, value in (body.get("binaryData") or {}).items()}


def build_environment(
    pod: Pod, container: Container, objects: Objects, setting: Setting, rewrite: Rewriter
) -> dict[str, str]:
    """Return the container's variables, expanded and rewritten. Raises `ConfigError` for what is missing."""
    own: dict[str, str] = {}
    known = service_variables(objects.services(pod.namespace)) if pod.spec.get("enableServiceLinks", True) else {}
    for source in container.body.get("envFrom") or ():
        own |= _from_source(pod, source, objects)
    for entry in container.body.get("env") or ():
        if "valueFrom" in entry:
            value = _value_from(pod, container, entry, objects, setting)
            if value is None:
                continue
        else:
            value = expand(str(entry.get("value") or ""), {**known, **own})
        own[str(entry["name"])] = value
    return {**setting.base, **known, **{name: rewrite(value) for name, value in own.items()}}


def build_command(container: Container, variables: Mapping[str, str], rewrite: Rewriter) -> list[str]:
    """Return the command line with its program found. Raises `ImageError` or `StartError` naming what is missing."""
    body = container.body
    if not body.get("command"):
        raise ImageError(
            f'container "{container.name}" has no command; this node runs processes and cannot take it '
            f'from the image "{body.get("image", "")}"'
        )
    words = [rewrite(expand(str(word), variables)) for word in (*body["command"], *(body.get("args") or ()))]
    return [find_program(words[0], variables), *words[1:]]


def find_program(word: str, variables: Mapping[str, str]) -> str:
    """Return the path of a program; `python` is the node's own interpreter, as if it were the image's."""
    if word in ("python", "python3"):
        return sys.executable
    found = shutil.which(word, path=variables.get("PATH", os.defpath))
    if found is None:
        problem = "no such file or directory" if "/" in word else "executable file not found in $PATH"
        if "/" in word and Path(word).exists():
            problem = "is a directory" if Path(word).is_dir() else "permission denied"
        raise StartError(f'exec: "{word}": {problem}')
    return found


def service_variables(services: Mapping[str, tuple[str, list[Json]]]) -> dict[str, str]:
    """Return `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the rest that kubelet sets for each Service."""
    variables: dict[str, str] = {}
    for name, (address, ports) in sorted(services.items()):
        prefix = name.upper().replace("-", "_")
        if not ports:
            continue
        variables[f"{prefix}_SERVICE_HOST"] = address
        variables[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        variables[f"{prefix}_PORT"] = f"tcp://{address}:{ports[0]['port']}"
        for port in ports:
            if port.get("name"):
                variables[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    return variables


def field_value(pod: Pod, path: str, setting: Setting) -> str:
    """Return the value of a downward field. Raises `ConfigError` for one that is not supported."""
    match = _SUBSCRIPT.match(path)
    if match is not None:
        part, key = match.groups()
        return str((pod.body["metadata"].get(part) or {}).get(key, ""))
    values = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": str(pod.spec.get("nodeName", "")),
        "spec.serviceAccountName": str(pod.spec.get("serviceAccountName") or "default"),
        "status.podIP": setting.pod_ip,
        "status.podIPs": setting.pod_ip,
        "status.hostIP": setting.host_ip,
        "status.hostIPs": setting.host_ip,
    }
    for part in ("labels", "annotations"):
        pairs = pod.body["metadata"].get(part) or {}
        values[f"metadata.{part}"] = "\n".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    if path not in values:
        raise ConfigError(f"fieldPath {path!r} is not supported")
    return values[path]


def _from_source(pod: Pod, source: Json, objects: Objects) -> dict[str, str]:
    reference = source.get("secretRef") or source.get("configMapRef") or {}
    kind = "Secret" if "secretRef" in source else "ConfigMap"
    data = _data(pod, kind, reference, objects)
    prefix = source.get("prefix") or ""
    return {f"{prefix}{key}": value.decode(errors="replace") for key, value in sorted((data or {}).items())}


def _value_from(pod: Pod, container: Container, entry: Json, objects: Objects, setting: Setting) -> str | None:
    source = entry["valueFrom"]
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], setting)
    if "resourceFieldRef" in source:
        return resource_value(pod, container, source["resourceFieldRef"], setting)
    for kind, field in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        if field in source:
            reference = source[field]
            data = _data(pod, kind, reference, objects)
            if data is not None and reference["key"] in data:
                return data[reference["key"]].decode(errors="replace")
            if reference.get("optional"):
                return None
            raise ConfigError(f"couldn't find key {reference['key']} in {kind} {pod.namespace}/{reference['name']}")
    raise ConfigError(f"variable {entry['name']}: no source in valueFrom is supported")


def resource_value(pod: Pod, container: Container, reference: Json, setting: Setting) -> str:
    """Return a container's request or limit in units of the divisor, rounded up (unlimited: the node's capacity)."""
    kind, _, resource = str(reference["resource"]).partition(".")
    wanted = pod.container(str(reference.get("containerName") or container.name))
    if wanted is None:
        raise ConfigError(f"resourceFieldRef: no container {reference.get('containerName')!r}")
    given = (wanted.body.get("resources") or {}).get(kind) or {}
    amount = parse_quantity(given[resource]) if resource in given else 0.0
    if not amount and kind == "limits":
        amount = setting.capacity.get(resource, 0.0)
    divisor = parse_quantity(reference.get("divisor") or _DIVISOR) or 1.0
    return str(math.ceil(round(amount / divisor, 6)))


def _data(pod: Pod, kind: str, reference: Json, objects: Objects) -> dict[str, bytes] | None:
    name = str(reference.get("name"))
    body = objects.secret(pod.namespace, name) if kind == "Secret" else objects.config_map(pod.namespace, name)
    if body is None:
        if reference.get("optional"):
            return None
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    return secret_data(body) if kind == "Secret" else config_map_data(body)
