"""The generator, one transformation at a time, and the committed files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from shoal.api.base import ApiModel
from shoal.api.markers import Atomic, Cel, IntOrString, ListMap, ListSet, PreserveUnknown
from shoal.crdgen import generate
from shoal.crdgen.schema import SchemaError, schema_of

CRDS = Path(__file__).parents[2] / "crds"


class Colour(StrEnum):
    """A colour."""

    RED = "Red"


class Leaf(ApiModel):
    name: str
    weight: Annotated[int, Field(ge=0, le=9)] = 1


class Tree(ApiModel):
    """A tree."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("true", "always"),)

    leaves: Annotated[list[Leaf], ListMap("name"), Field(max_length=3)] = Field(default_factory=list)
    first: Leaf = Field(default_factory=lambda: Leaf(name="a", weight=1))
    colour: Colour = Colour.RED
    maybe: Annotated[str, Field(pattern="^a$", max_length=4)] | None = None
    free: Annotated[dict[str, Any], PreserveUnknown()] = Field(default_factory=dict)
    count: Annotated[int | str, IntOrString(minimum=0, pattern="^x$")] = 1
    labels: dict[str, str] = Field(default_factory=dict)
    tags: Annotated[list[str], ListSet()] = Field(default_factory=list)
    parts: Annotated[list[int], Atomic()] = Field(default_factory=list)
    needed: bool


TREE = schema_of(Tree, defaults=True)


def test_lists_become_maps_by_their_key() -> None:
    assert TREE["properties"]["leaves"] | {"items": None} == {
        "type": "array",
        "items": None,
        "maxItems": 3,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }


def test_optional_is_absence_and_constraints_survive_it() -> None:
    assert TREE["properties"]["maybe"] == {"type": "string", "pattern": "^a$", "maxLength": 4}


def test_defaults_are_whole_because_the_server_checks_rules_against_them() -> None:
    assert TREE["properties"]["first"]["default"] == {"name": "a", "weight": 1}
    assert TREE["properties"]["first"]["properties"]["weight"]["default"] == 1
    assert "default" not in TREE["properties"]["labels"]


def test_scalars_enums_and_open_objects() -> None:
    properties = TREE["properties"]
    assert properties["colour"] == {"type": "string", "enum": ["Red"], "default": "Red", "description": "A colour."}
    assert properties["free"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert properties["count"] == {
        "x-kubernetes-int-or-string": True,
        "minimum": 0,
        "pattern": "^x$",
        "default": 1,
    }
    assert properties["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert properties["tags"]["x-kubernetes-list-type"] == "set"
    assert properties["parts"]["x-kubernetes-list-type"] == "atomic"


def test_required_rules_and_description() -> None:
    assert TREE["required"] == ["needed"]
    assert TREE["x-kubernetes-validations"] == [{"rule": "true", "message": "always"}]
    assert TREE["description"] == "A tree."


def test_a_status_has_neither_defaults_nor_rules() -> None:
    schema = schema_of(Tree, defaults=False)
    assert "x-kubernetes-validations" not in schema
    assert "default" not in schema["properties"]["colour"]


class Recursive(ApiModel):
    again: "Recursive | None" = None


class Floating(ApiModel):
    number: float = 0.5


@pytest.mark.parametrize(("model", "words"), [(Recursive, "contains itself"), (Floating, r"\.number: .*float")])
def test_what_has_no_structural_form_is_named(model: type[ApiModel], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema_of(model, defaults=True)


def test_the_committed_files_are_what_the_models_say() -> None:
    assert generate.stale(CRDS) == [], "run `python -m shoal.crdgen`"


def nodes(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += nodes(schema[key], f"{path}[]")
    return found


@pytest.mark.parametrize("definition", generate.definitions(), ids=lambda each: each["spec"]["names"]["kind"])
def test_every_node_is_typed_and_every_list_of_names_is_a_map(definition: dict[str, Any]) -> None:
    (version,) = definition["spec"]["versions"]
    for path, node in nodes(version["schema"]["openAPIV3Schema"], ""):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        items = node.get("items", {})
        if "name" in items.get("properties", {}):
            assert node.get("x-kubernetes-list-type") == "map", path


@pytest.mark.parametrize("definition", generate.definitions(), ids=lambda each: each["spec"]["names"]["kind"])
@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_says_what_it_means(definition: dict[str, Any], part: str) -> None:
    (version,) = definition["spec"]["versions"]
    fields = nodes(version["schema"]["openAPIV3Schema"]["properties"][part], part)
    assert [path for path, node in fields if not path.endswith("[]") and not node.get("description")] == []
    texts = [node["description"] for path, node in fields if not path.endswith("[]")]
    assert [text for text in texts if not text.endswith((".", ")"))] == [], "sentences"
