"""The life of an object: created, updated, deleted; with the bookkeeping that every object gets."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from shoal_embedded.apiserver import apply as server_side
from shoal_embedded.apiserver import builtin, checks, names, rules
from shoal_embedded.apiserver import metadata as metadata_rules
from shoal_embedded.apiserver.errors import (
    MODIFIED,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
    terminating,
)
from shoal_embedded.apiserver.options import NOBODY, Options
from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.schema import cause, default, is_blocking, prune, validate
from shoal_embedded.apiserver.storage import Storage

Json = dict[str, Any]
Change = Callable[[Json], Json]

_UNCHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)

_UNVERSIONED = "Invalid value: 0: must be specified for an update"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_OMITTED_EMPTY = ("labels", "annotations", "finalizers", "ownerReferences", "managedFields")
_SYSTEM_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


_NUMBERED = frozenset(
    {"pods", "networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy", "priorityclasses.scheduling.k8s.io"}
    | {"customresourcedefinitions.apiextensions.k8s.io", "replicationcontrollers"}
)
"""Built-in kinds that count changes of their spec; custom ones all do."""


def timestamp() -> str:
    """Now, as Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """Every write goes through here."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.on_removed: list[Callable[[Resource, Json], None]] = []

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """One object; raises 404."""
        found = self._storage.get(resource.key, namespace, name)
        if found is None:
            raise not_found(resource.plural, resource.group, name)
        return self._presented(resource, found)

    def create(
        self,
        resource: Resource,
        namespace: str,
        body: Json,
        options: Options = NOBODY,
    ) -> Json:
        """Store a new object. Raises 409 for a name that is taken, 404 for a missing namespace, 422 for a misfit."""
        metadata = {key: value for key, value in (body.get("metadata") or {}).items() if value is not None}
        metadata_rules.check_types(metadata)
        if not metadata.get("name"):
            prefix = metadata.get("generateName")
            if not prefix:
                text = cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")
                raise invalid(resource.kind, resource.group, "", [text])
            prefix = prefix[: metadata_rules.LONGEST_PREFIX]
            metadata["name"] = self._free_name(resource, namespace, prefix)
        self._check_scope(resource, namespace, metadata)
        if metadata.get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        metadata = {key: value for key, value in metadata.items() if key not in (*_SYSTEM_METADATA, "selfLink")}
        metadata |= {"uid": str(uuid4()), "creationTimestamp": timestamp()}
        if _is_numbered(resource):
            metadata["generation"] = 1
        if resource.namespaced:
            metadata["namespace"] = namespace
        name = metadata["name"]
        misnamed = names.validate(resource, metadata)
        if misnamed:
            raise invalid(resource.kind, resource.group, name, misnamed)
        if self._storage.get(resource.key, namespace, name) is not None:
            raise already_exists(resource.plural, resource.group, name)
        fresh = {**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        if resource.custom and "status" in resource.subresources:
            fresh.pop("status", None)
        fresh = self._admitted(resource, builtin.defaulted(resource, fresh), None, strict=options.strict)
        if options.manager:
            start = builtin.bare(resource, fresh)
            fresh = server_side.written(start, fresh, options.manager, "", _typed(resource), timestamp())
        fresh = builtin.created(self._storage, resource, fresh)
        return fresh if options.dry else self._storage.put(resource.key, fresh)

    def _free_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        while True:
            name = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(5))
            if self._storage.get(resource.key, namespace, name) is None:
                return name

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Change,
        options: Options = NOBODY,
        *,
        subresource: str = "",
    ) -> Json:
        """Store `change(object)` in the object's place; of a subresource only its part. Raises 404, 409, 422."""
        before = self.get(resource, namespace, name)
        after = change(before)
        given = after.get("metadata") or {}
        if given != before["metadata"]:
            metadata_rules.check_types(given)
        asked = given.get("resourceVersion")
        if asked and asked != before["metadata"]["resourceVersion"]:
            raise conflict(resource.plural, resource.group, name, MODIFIED)
        if not asked and resource.custom:
            missing = cause("FieldValueInvalid", "metadata.resourceVersion", _UNVERSIONED)
            raise invalid(resource.plural, resource.group, name, [missing])
        self._check_system(resource, before["metadata"], given)
        after = self._merged(resource, before, after, subresource)
        after = self._admitted(resource, builtin.defaulted(resource, after), before, strict=options.strict)
        if not subresource:
            checks.check_update(resource, before, after)
        if options.manager:
            after = server_side.written(before, after, options.manager, subresource, _typed(resource), timestamp())
        if _content(after) == _content(before):
            return before
        if (
            _is_numbered(resource)
            and _without_status(after) != _without_status(before)
            and subresource in ("", "scale")
        ):
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        if options.dry:
            return after
        stored = self._storage.put(resource.key, after)
        return self._finish(resource, stored)

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        config: Json,
        options: Options,
        *,
        subresource: str = "",
    ) -> tuple[Json, bool]:
        """Server-side apply; returns the object and whether it is new."""
        config = {**config, "metadata": {**(config.get("metadata") or {}), "name": name}}
        if subresource == "status":
            config = {key: config[key] for key in ("apiVersion", "kind", "status") if key in config}
            config["metadata"] = {"name": name}
        elif "status" in resource.subresources:
            config.pop("status", None)
        if resource.custom:
            _check_declared(resource, config)
        unowned = replace(options, manager="", strict=False)
        schema, applier = _typed(resource), f"{options.manager}/{subresource}"

        def change(live: Json | None) -> Json:
            return server_side.apply(live, config, applier, force=options.force, schema=schema, now=timestamp())

        if self._storage.get(resource.key, namespace, name) is None:
            if subresource:
                raise not_found(resource.plural, resource.group, name)
            return self.create(resource, namespace, change(None), unowned), True
        return self.update(resource, namespace, name, change, unowned, subresource=subresource), False

    def delete(self, resource: Resource, namespace: str, name: str, options: Json, *, dry: bool = False) -> Json:
        """Delete an object, or mark it where finalizers or a grace period keep it. Raises 404, 409."""
        before = self.get(resource, namespace, name)
        self._check_preconditions(resource, before, options.get("preconditions") or {})
        if dry:
            return before
        metadata = dict(before["metadata"])
        grace = builtin.grace_seconds(resource, before, options)
        propagation = options.get("propagationPolicy")
        finalizers = list(metadata.get("finalizers", ()))
        if propagation == "Orphan" and "orphan" not in finalizers:
            finalizers.append("orphan")
        if propagation == "Foreground" and "foregroundDeletion" not in finalizers:
            finalizers.append("foregroundDeletion")
        if not finalizers and grace == 0 and resource.key != "namespaces":
            if resource.key == "pods":
                # A pod is always said to end first, even when it is gone in the same moment.
                marks = {"deletionTimestamp": timestamp(), "deletionGracePeriodSeconds": 0}
                if "deletionTimestamp" not in metadata:
                    metadata = _counted(metadata)
                before = {**before, "metadata": {**metadata, **marks}}
            return self._remove(resource, before)
        marked = metadata.get("deletionTimestamp")
        shorter = grace < metadata.get("deletionGracePeriodSeconds", grace + 1)
        if marked and not shorter:
            return before
        if not marked:
            metadata = _counted(metadata)
        if resource.key == "namespaces":
            # It goes when all that is in it has gone.
            before = {**before, "status": {**before.get("status", {}), "phase": "Terminating"}}
        else:
            metadata["deletionGracePeriodSeconds"] = grace
        metadata["deletionTimestamp"] = timestamp()
        if finalizers:
            metadata["finalizers"] = finalizers
        return self._finish(resource, self._storage.put(resource.key, {**before, "metadata": metadata}))

    def _finish(self, resource: Resource, body: Json) -> Json:
        """Remove an object that is marked for deletion and that nothing keeps any more."""
        metadata = body["metadata"]
        kept = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds", 0)
        if "deletionTimestamp" in metadata and not kept and resource.key != "namespaces":
            return self._remove(resource, body)
        return body

    def _remove(self, resource: Resource, body: Json) -> Json:
        last = self._storage.remove(resource.key, body)
        for told in self.on_removed:
            told(resource, last)
        return last

    def _merged(self, resource: Resource, before: Json, after: Json, subresource: str) -> Json:
        """What an update may change: everything but system metadata and, without its subresource, the status."""
        metadata = dict(after.get("metadata") or {})
        for key in ("name", "namespace", *_SYSTEM_METADATA):
            metadata.pop(key, None)
            if key in before["metadata"]:
                metadata[key] = before["metadata"][key]
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        for key in _OMITTED_EMPTY:
            if not metadata.get(key):
                metadata.pop(key, None)
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        if subresource == "status":
            kept = {**before["metadata"], "managedFields": metadata.get("managedFields", [])}
            changed = {**before, "metadata": kept, "status": after.get("status")}
            return {key: value for key, value in changed.items() if value is not None} | head
        after = {**after, "metadata": metadata} | head
        if "status" in resource.subresources:
            after.pop("status", None)
            if "status" in before:
                after["status"] = before["status"]
        return after

    def _admitted(self, resource: Resource, body: Json, before: Json | None, *, strict: bool) -> Json:
        """Prune, default and validate a custom object; built-in ones are taken as they come, but for a few checks."""
        name = body["metadata"].get("name", "")
        if not resource.custom:
            checks.check_body(resource, body)
            causes = _refused_metadata(body, before) + checks.validate(resource, body)
            if causes:
                raise invalid(resource.kind, resource.group, name, causes)
            return body
        schema = resource.schema or {}
        body, unknown = prune(body, _full_schema(resource))
        if unknown and strict:
            words = ", ".join(f'unknown field "{path}"' for path in unknown)
            start = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
            raise bad_request(f"{start}: strict decoding error: {words}")
        body = default(body, schema)
        causes = _refused_metadata(body, before)
        causes += validate({key: value for key, value in body.items() if key != "metadata"}, _without_metadata(schema))
        if not is_blocking(causes):
            causes += rules.broken(body, schema, before) if before is not None else rules.broken(body, schema)
        elif rules.any_in(schema):
            causes.append(cause("FieldValueInvalid", "", f"Invalid value: null: {_UNCHECKED}"))
        if causes:
            raise invalid(resource.kind, resource.group, name, causes)
        return dict(body)

    def _check_system(self, resource: Resource, before: Json, after: Json) -> None:
        name = before["name"]
        uid = after.get("uid")
        if uid and uid != before["uid"] and not resource.custom:
            why = "StorageError: invalid object, Code: 4, Key: "
            why += f"/registry/{resource.plural}/{before.get('namespace')}/{name}, ResourceVersion: 0, "
            why += f"AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, "
            raise conflict(resource.plural, resource.group, name, f"{why}UID in object meta: {before['uid']}")
        causes = metadata_rules.changed(before, after, custom=resource.custom)
        if causes:
            raise invalid(resource.kind, resource.group, name, causes)

    def _presented(self, resource: Resource, body: Json) -> Json:
        if body["apiVersion"] == resource.api_version:
            return body
        return {**body, "apiVersion": resource.api_version}

    def _check_scope(self, resource: Resource, namespace: str, metadata: Json) -> None:
        given = metadata.get("namespace")
        if not resource.namespaced:
            return
        if given and given != namespace:
            words = "the namespace of the provided object does not match the namespace sent on the request"
            raise bad_request(words)
        home = self._storage.get("namespaces", "", namespace)
        if home is None:
            raise not_found("namespaces", "", namespace)
        if "deletionTimestamp" in home["metadata"]:
            raise terminating(resource.plural, resource.group, metadata["name"], namespace)

    def _check_preconditions(self, resource: Resource, body: Json, wanted: Json) -> None:
        metadata = body["metadata"]
        for key, field, fate in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted.get(key) and wanted[key] != metadata[key]:
                asked, is_ = (
                    f"the {field} in the precondition ({wanted[key]})",
                    f"the {field} in record ({metadata[key]})",
                )
                why = f"{asked} does not match {is_}. The object might have been {fate}"
                raise conflict(resource.kind, resource.group, metadata["name"], why)


def _check_declared(resource: Resource, config: Json) -> None:
    """Raise 500, as kube-apiserver does, for an applied field that the schema does not have."""
    _, unknown = prune(config, _full_schema(resource))
    if unknown:
        each = [f".{path}: field not declared in schema" for path in unknown]
        words = each[0] if len(each) == 1 else "errors:\n" + "\n".join(f"  {one}" for one in each)
        metadata = config["metadata"]
        named = f"{metadata.get('namespace', '')}/{metadata['name']}; {resource.api_version}, Kind={resource.kind}"
        raise StatusError(500, "", f"failed to create typed patch object ({named}): {words}")


def _full_schema(resource: Resource) -> Json:
    """The schema of the whole object: metadata is any object's."""
    schema = resource.schema or {}
    properties = {
        **schema.get("properties", {}),
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": metadata_rules.SCHEMA,
    }
    return {**schema, "properties": properties}


def _refused_metadata(body: Json, before: Json | None) -> list[Json]:
    """Causes against the metadata, of which what was there before has been looked at."""
    metadata = body["metadata"]
    old = {} if before is None else before["metadata"]
    if all(metadata.get(key) == old.get(key) for key in _OMITTED_EMPTY):
        return []
    return metadata_rules.refused(metadata)


def _counted(metadata: Json) -> Json:
    """Metadata of what is marked for deletion: that is a change of what is wanted, and counts as one."""
    return {**metadata, "generation": metadata["generation"] + 1} if "generation" in metadata else metadata


def _is_numbered(resource: Resource) -> bool:
    return resource.custom or resource.key in _NUMBERED


def _typed(resource: Resource) -> Json | None:
    """The schema by which fields are owned; None for built-in kinds, whose fields are known by their names."""
    return _full_schema(resource) if resource.custom else None


def _without_metadata(schema: Json) -> Json:
    properties = {key: value for key, value in schema.get("properties", {}).items() if key != "metadata"}
    return {**schema, "properties": properties}


def _content(body: Json) -> Json:
    """The object as far as a change of it counts: times of field managers do not."""
    metadata = {
        key: value for key, value in body["metadata"].items() if key not in ("resourceVersion", "managedFields")
    }
    entries = body["metadata"].get("managedFields", ())
    managed = [(each["manager"], each["operation"], each["fieldsV1"]) for each in entries]
    return {**body, "metadata": {**metadata, "managed": managed}}


def _without_status(body: Json) -> Json:
    return {key: value for key, value in body.items() if key not in ("metadata", "status")}
