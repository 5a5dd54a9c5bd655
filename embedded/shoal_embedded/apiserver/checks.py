"""What built-in objects are refused for: the little of it that Shoal and kubectl can run into."""

import re
from base64 import b64decode
from typing import Any

from shoal_embedded.apiserver.errors import bad_request, invalid
from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.schema import cause

Json = dict[str, Any]

_RESTARTS = ("Always", "OnFailure", "Never")
_KEY = "[-._a-zA-Z0-9]+"
_MOST_DATA = 1024 * 1024
"""Bytes in a Secret or ConfigMap."""
_LAST_PORT = 65535


def validate(resource: Resource, body: Json) -> list[Json]:
    """Causes for which a built-in object is refused."""
    spec = body.get("spec") or {}
    if resource.key == "pods":
        return _pod_causes(spec)
    if resource.key == "services":
        return _service_causes(spec)
    if resource.key in ("secrets", "configmaps"):
        return _data_causes(body)
    if resource.key == "leases.coordination.k8s.io":
        seconds = spec.get("leaseDurationSeconds")
        words = f"Invalid value: {seconds}: must be greater than 0"
        return (
            [cause("FieldValueInvalid", "spec.leaseDurationSeconds", words)]
            if seconds is not None and seconds < 1
            else []
        )
    if resource.key == "events":
        return _event_causes(body)
    if resource.key == "customresourcedefinitions.apiextensions.k8s.io":
        return _definition_causes(body["metadata"].get("name", ""), spec)
    return []


def _pod_causes(spec: Json) -> list[Json]:
    containers = spec.get("containers")
    if not containers:
        return [cause("FieldValueRequired", "spec.containers", "Required value")]
    found, names = [], set()
    for index, container in enumerate(containers):
        name = container.get("name")
        if name in names:
            found.append(cause("FieldValueDuplicate", f"spec.containers[{index}].name", f'Duplicate value: "{name}"'))
        names.add(name)
        for key in ("name", "image"):
            if not container.get(key):
                found.append(cause("FieldValueRequired", f"spec.containers[{index}].{key}", "Required value"))
    policy = spec.get("restartPolicy")
    if policy not in _RESTARTS:
        known = ", ".join(f'"{each}"' for each in _RESTARTS)
        words = f'Unsupported value: "{policy}": supported values: {known}'
        found.append(cause("FieldValueNotSupported", "spec.restartPolicy", words))
    return found


def _data_causes(body: Json) -> list[Json]:
    """Keys that cannot be names of files, and more data than an object may hold."""
    data, binary = body.get("data") or {}, body.get("binaryData") or {}
    found = []
    for key in (*data, *binary):
        if not re.fullmatch(_KEY, key):
            words = (
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                f"'KEY_NAME',  or 'key-name', regex used for validation is '{_KEY}')"
            )
            found.append(cause("FieldValueInvalid", f"data[{key}]", f'Invalid value: "{key}": {words}'))
        if key in data and key in binary:
            words = "duplicate of key present in data"
            found.append(cause("FieldValueInvalid", f"data[{key}]", f'Invalid value: "{key}": {words}'))
    if sum(len(value) for value in (*data.values(), *binary.values())) > _MOST_DATA:
        found.append(cause("FieldValueTooLong", "[]", f"Too long: may not be more than {_MOST_DATA} bytes"))
    return list({(each["field"], each["message"]): each for each in found}.values())


def check_body(resource: Resource, body: Json) -> None:
    """Raise 400 for values that cannot be read at all."""
    if resource.key not in ("secrets", "configmaps"):
        return
    for key, value in (body.get("data") or {}).items():
        start = f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}'
        if not isinstance(value, str):
            words = f"json: cannot unmarshal into Go struct field {resource.kind}.data of type string"
            raise bad_request(f"{start}: {words} ({key})")
        if resource.key == "secrets":
            try:
                b64decode(value, validate=True)
            except ValueError as error:
                raise bad_request(f"{start}: illegal base64 data ({key})") from error


def _service_causes(spec: Json) -> list[Json]:
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None":
        return [cause("FieldValueRequired", "spec.ports", "Required value")]
    found = []
    for index, port in enumerate(ports):
        for key in ("port", "targetPort"):
            value = port.get(key)
            if isinstance(value, int) and not 1 <= value <= _LAST_PORT:
                words = f"Invalid value: {value}: must be between 1 and {_LAST_PORT}, inclusive"
                found.append(cause("FieldValueInvalid", f"spec.ports[{index}].{key}", words))
    if len(ports) < 2:
        return found
    unnamed = [index for index, port in enumerate(ports) if not port.get("name")]
    return found + [cause("FieldValueRequired", f"spec.ports[{index}].name", "Required value") for index in unnamed]


def _event_causes(event: Json) -> list[Json]:
    about, home = event.get("involvedObject") or {}, event["metadata"].get("namespace", "")
    # What is cluster-wide has its events in the namespace default.
    if about.get("namespace", "") in ("", home):
        return []
    words = f'Invalid value: "{about["namespace"]}": does not match event.namespace'
    return [cause("FieldValueInvalid", "involvedObject.namespace", words)]


def _definition_causes(name: str, spec: Json) -> list[Json]:
    names = spec.get("names") or {}
    given = {"spec.group": spec.get("group"), "spec.scope": spec.get("scope"), "spec.versions": spec.get("versions")}
    given |= {f"spec.names.{key}": names.get(key) for key in ("plural", "kind")}
    missing = [cause("FieldValueRequired", field, "Required value") for field, value in given.items() if not value]
    if missing:
        return missing
    if name != f"{names['plural']}.{spec['group']}":
        words = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        return [cause("FieldValueInvalid", "metadata.name", words)]
    if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
        words = "Invalid value: must have exactly one version marked as storage version"
        return [cause("FieldValueInvalid", "spec.versions", words)]
    return []


def check_update(resource: Resource, before: Json, after: Json) -> None:
    """Raise 422 for a change that a built-in object does not allow."""
    if resource.key == "services":
        _check_address(before, after)
    if resource.key in ("secrets", "configmaps"):
        _check_data(resource, before, after)
    if resource.key != "pods":
        return
    old, new = before["spec"], after["spec"]
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    allowed = {"containers", "initContainers", "activeDeadlineSeconds", "tolerations", "nodeName", "schedulingGates"}
    same = all(_fixed(old.get(key)) == _fixed(new.get(key)) for key in ("containers", "initContainers"))
    if changed - allowed or not same:
        words = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
        raise invalid("Pod", "", before["metadata"]["name"], [cause("FieldValueForbidden", "spec", words)])


def _fixed(containers: list[Json] | None) -> list[Json]:
    """What of containers may not change: all but their images."""
    return [{key: value for key, value in each.items() if key != "image"} for each in containers or ()]


def _check_data(resource: Resource, before: Json, after: Json) -> None:
    causes = []
    if before.get("type") != after.get("type"):
        words = f'Invalid value: "{after.get("type")}": field is immutable'
        causes.append(cause("FieldValueInvalid", "type", words))
    if before.get("immutable"):
        words = "Forbidden: field is immutable when `immutable` is set"
        changed = [key for key in ("immutable", "data", "binaryData") if before.get(key) != after.get(key)]
        causes += [cause("FieldValueForbidden", key, words) for key in changed]
    if causes:
        raise invalid(resource.kind, "", before["metadata"]["name"], causes)


def _check_address(before: Json, after: Json) -> None:
    old, new = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    if old != new:
        words = f'Invalid value: ["{new}"]: may not change once set'
        wrong = cause("FieldValueInvalid", "spec.clusterIPs[0]", words)
        raise invalid("Service", "", before["metadata"]["name"], [wrong])
