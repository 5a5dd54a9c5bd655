"""The generated files: one CustomResourceDefinition each."""

import re
from pathlib import Path
from typing import Any

import yaml

from shoal.api.v1alpha1 import KINDS
from shoal.crdgen.definition import definition_of

Json = dict[str, Any]

HEADER = "# Generated from operator/shoal/api by `python -m shoal.crdgen`; change the models, not this file.\n"
LIMIT_BYTES = 200_000
"""Client-side apply keeps a copy in an annotation of at most 256 KiB, and Helm keeps all of a release in 1 MB."""


def definitions() -> list[Json]:
    """The CustomResourceDefinitions of every kind."""
    return [definition_of(kind) for kind in KINDS]


def as_yaml() -> str:
    """All of them as one YAML stream."""
    return "---\n".join(_dump(definition) for definition in definitions())


def files() -> dict[str, str]:
    """File name -> content. Raises ValueError for one that is too large."""
    written = {}
    for definition in definitions():
        text = HEADER + _dump(definition)
        name = f"{definition['metadata']['name'].partition('.')[0]}.yaml"
        if len(text.encode()) > LIMIT_BYTES:
            raise ValueError(f"{name} has {len(text.encode())} bytes, more than {LIMIT_BYTES}")
        written[name] = text
    return written


def write(folder: Path) -> list[str]:
    """Write the files; returns the names of those that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = stale(folder)
    for name, text in files().items():
        (folder / name).write_text(text)
    return changed


def stale(folder: Path) -> list[str]:
    """Names of the files that are missing or differ from what the models say."""
    return [
        name for name, text in files().items() if not (folder / name).exists() or (folder / name).read_text() != text
    ]


class _Dumper(yaml.SafeDumper):
    """Quotes text that looks like a number: Kubernetes reads YAML 1.2, where 1e-6 is one; PyYAML's 1.1 thinks not."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that appears twice out twice."""
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    style = "'" if _NUMBER.fullmatch(data) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
_Dumper.add_representer(str, _text)


def _dump(definition: Json) -> str:
    return yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=120)
