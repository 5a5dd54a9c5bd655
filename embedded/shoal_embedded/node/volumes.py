"""Makes a pod's volumes real: directories and files of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_embedded.node.failures import ConfigError, StartError
from shoal_embedded.node.podspec import Container, Pod
from shoal_embedded.node.records import PodFolder, write_atomically
from shoal_embedded.node.variables import Objects, Setting, config_map_data, field_value, secret_data

Json = dict[str, Any]


OWN = frozenset({"/tmp", "/dev/shm"})
"""Where every process of this machine may write. An empty volume mounted there is left out: its path would be replaced
wherever it begins another one, in a job's folder below /tmp for example."""


HOST_DATA = Path("/var/lib/shoal")
"""Where manifests keep models and data on a node. Users may not write there, so each has a folder in its place."""

_REFRESHED = frozenset({"secret", "configMap", "projected"})


@dataclass(frozen=True)
class Claims:
    """Finds the directory of a PersistentVolumeClaim (namespace, name); None when there is no such claim."""

    folder: Callable[[str, str], Path | None]


@dataclass(frozen=True)
class VolumeSources:
    """Where the content of volumes comes from. `host_data`: the real folder of host paths below `HOST_DATA`."""

    objects: Objects
    claims: Claims
    host_data: Path | None = None

    def host_path(self, path: Path) -> Path:
        """Where a host path lies on this machine."""
        if self.host_data is None or not path.is_relative_to(HOST_DATA):
            return path
        return self.host_data / path.relative_to(HOST_DATA)


class VolumeMaker:
    """Makes the volumes of one pod."""

    def __init__(self, pod: Pod, folder: PodFolder, sources: VolumeSources, setting: Setting) -> None:
        self._pod = pod
        self._folder = folder
        self._sources = sources
        self._objects = sources.objects
        self._setting = setting

    def mounts(self, container: Container) -> dict[str, str]:
        """Make the volumes that the container mounts; return mount path -> real path.

        Raises `ConfigError` or `StartError` naming the volume and what is missing.
        """
        volumes = {str(volume["name"]): volume for volume in self._pod.spec.get("volumes") or ()}
        found: dict[str, str] = {}
        for mount in container.body.get("volumeMounts") or ():
            volume = volumes.get(str(mount["name"]))
            if volume is None:
                raise ConfigError(f'volumeMounts: no volume named "{mount["name"]}"')
            if "emptyDir" in volume and str(mount["mountPath"]) in OWN:
                continue
            try:
                real = self._make(volume)
                if mount.get("subPath"):
                    real = real / str(mount["subPath"])
                    if not real.exists():
                        real.mkdir(parents=True)
            except OSError as error:
                raise StartError(f'volume "{mount["name"]}": {error}') from error
            found[str(mount["mountPath"])] = str(real)
        return found

    def refresh(self) -> None:
        """Write the files anew of volumes that were made and whose Secret or ConfigMap has changed, as kubelet does.

        What cannot be read now stays as it is.
        """
        for volume in self._pod.spec.get("volumes") or ():
            if not _REFRESHED.isdisjoint(volume) and self._folder.volume(str(volume["name"])).exists():
                with suppress(ConfigError, OSError):
                    self._make(volume)

    def _make(self, volume: Json) -> Path:
        makers: Mapping[str, Callable[[str, Json], Path]] = {
            "emptyDir": self._empty,
            "hostPath": self._host_path,
            "persistentVolumeClaim": self._claim,
            "secret": lambda name, source: self._files(name, [{"secret": {**source, "name": source["secretName"]}}]),
            "configMap": lambda name, source: self._files(name, [{"configMap": source}]),
            "downwardAPI": lambda name, source: self._files(name, [{"downwardAPI": source}]),
            "projected": lambda name, source: self._files(name, source.get("sources") or []),
        }
        name = str(volume["name"])
        for kind, make in makers.items():
            if kind in volume:
                return make(name, volume[kind] or {})
        kinds = ", ".join(sorted(set(volume) - {"name"})) or "nothing"
        raise ConfigError(f'volume "{name}": this node has no {kinds}, only {", ".join(makers)}')

    def _empty(self, name: str, _: Json) -> Path:
        path = self._folder.volume(name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _host_path(self, name: str, source: Json) -> Path:
        path, kind = self._sources.host_path(Path(str(source["path"]))), str(source.get("type") or "")
        if kind in ("", "DirectoryOrCreate") and not path.exists():
            path.mkdir(parents=True)
        if kind == "FileOrCreate" and not path.exists():
            path.touch()
        wrong = (kind in ("Directory", "DirectoryOrCreate") and not path.is_dir()) or (
            kind in ("File", "FileOrCreate") and not path.is_file()
        )
        if wrong or not path.exists():
            what = "file" if "File" in kind else "directory"
            raise StartError(f'volume "{name}": hostPath {path} is not a {what} of this machine')
        return path

    def _claim(self, name: str, source: Json) -> Path:
        claim = str(source["claimName"])
        path = self._sources.claims.folder(self._pod.namespace, claim)
        if path is None:
            raise ConfigError(f'volume "{name}": persistentvolumeclaim "{claim}" not found')
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _files(self, name: str, sources: list[Json]) -> Path:
        folder = self._folder.volume(name)
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            for path, content in self._content(name, source).items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists() or target.read_bytes() != content:
                    write_atomically(target, content)
        return folder

    def _content(self, name: str, source: Json) -> dict[str, bytes]:
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or ()
            fields = [(item["path"], item["fieldRef"]["fieldPath"]) for item in items if "fieldRef" in item]
            return {path: field_value(self._pod, field, self._setting).encode() for path, field in fields}
        kind = "secret" if "secret" in source else "configMap"
        if kind not in source:
            # A service account's token: the processes of this node get none.
            return {}
        reference = source[kind]
        wanted = str(reference.get("name"))
        find, read = (
            (self._objects.secret, secret_data) if kind == "secret" else (self._objects.config_map, config_map_data)
        )
        body = find(self._pod.namespace, wanted)
        if body is None:
            if reference.get("optional"):
                return {}
            raise ConfigError(f'volume "{name}": {kind.lower()} "{wanted}" not found')
        data = read(body)
        if not reference.get("items"):
            return data
        missing = [item["key"] for item in reference["items"] if item["key"] not in data]
        if missing and not reference.get("optional"):
            raise ConfigError(f'volume "{name}": {kind.lower()} "{wanted}" has no key {", ".join(missing)}')
        return {item["path"]: data[item["key"]] for item in reference["items"] if item["key"] in data}
