"""YAML as Kubernetes reads it: a key stands once in an object, and `1e-3` is a number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"


class DuplicateKeyError(yaml.YAMLError):
    """A key that is twice in one object; the text names it and both lines."""


class KubernetesLoader(yaml.SafeLoader):
    """The safe loader with these two differences from PyYAML, which takes a key's last value and `1e-3` as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The object. Raises `DuplicateKeyError`."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise DuplicateKeyError(f"line {line}: {key.value} is there already, in line {lines[key.value]}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


# YAML 1.2 wants neither a dot in the mantissa nor a sign in the exponent.
KubernetesLoader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def load_all(text: str) -> list[Any]:
    """Every document that is not empty. Raises `yaml.YAMLError`."""
    return [document for document in yaml.load_all(text, KubernetesLoader) if document is not None]
