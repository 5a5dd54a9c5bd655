"""Looking through safetensors files: what is refused, by name."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from shoal.api.services.models import WeightsTarget
from shoal_workers.engines.tensors import (
    TensorsError,
    check_finite,
    check_tensors,
    first_not_finite,
    optional_names,
    tensors_of,
)
from shoal_workers.engines.weights import Verifier, WeightsError
from tests.models import write_model


def write(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name.replace("__", "."): value.clone() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": ONES}, "tensor b__weight: is missing"),
        ({"a": ONES, "b__weight": ONES, "c": ONES}, "model.safetensors: tensor c: is not in it"),
        ({"a": ONES, "b__weight": ONES[:2]}, r"tensor b.weight: has shape \[2, 2\], the model's is \[3, 2\]"),
        ({"a": ONES, "b__weight": ONES.T.contiguous()}, r"has shape \[2, 3\]"),
        ({"a": ONES.int(), "b__weight": ONES}, "tensor a: is I32, the model's is F32"),
        ({"a": ONES.to(torch.float8_e4m3fn), "b__weight": ONES}, "tensor a: is F8_E4M3, the model's is F32"),
    ],
)
def test_other_tensors_than_the_models_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    model = tensors_of(write(tmp_path / "model", a=ONES, b__weight=ONES))
    with pytest.raises(TensorsError, match=reason.replace("__", r"\.")):
        check_tensors(tensors_of(write(tmp_path / "version", **tensors)), model)


def test_what_a_saved_model_may_lack_or_convert(tmp_path: Path) -> None:
    model = write(tmp_path / "model", a=ONES, b=ONES, lm_head__weight=ONES, x__rotary_emb__inv_freq=ONES)
    version = write(tmp_path / "version", a=ONES.bfloat16(), b=ONES.half())
    check_tensors(tensors_of(version), tensors_of(model), optional_names({"tie_word_embeddings": True}))
    with pytest.raises(TensorsError, match=r"lm_head\.weight: is missing"):
        check_tensors(tensors_of(version), tensors_of(model), optional_names({}))
    # The text model out of a larger one has names of its own; common names are compared all the same.
    other = write(tmp_path / "other", t__a=ONES, t__b=ONES, t__c=ONES, a=ONES)
    check_tensors(tensors_of(other), tensors_of(model))
    with pytest.raises(TensorsError, match="tensor a: has shape"):
        check_tensors(tensors_of(write(tmp_path / "odd", t__a=ONES, t__b=ONES, a=ONES[:1])), tensors_of(model))


def test_what_transformers_passes_over_may_be_missing() -> None:
    patterns = optional_names({"architectures": ["DeepseekV3ForCausalLM"], "tie_word_embeddings": False})
    assert any("61" in pattern for pattern in patterns)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_values_that_are_not_finite_are_found_in_every_type(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    largest = torch.full((5, 3), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    smallest = torch.full((5, 3), -torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    bad = largest.clone()
    # e4m3fn has no infinity: it becomes the number that is none.
    bad[3, 1] = float("nan") if dtype is torch.float8_e4m3fn else value
    found = tensors_of(write(tmp_path, good=largest, low=smallest, zero=torch.zeros(2, dtype=dtype), bad=bad))
    assert [first_not_finite(found[name]) for name in ("good", "low", "zero", "bad")] == [None, None, None, 10]
    with pytest.raises(TensorsError, match=r"model\.safetensors: tensor bad: value 10 is not finite"):
        check_finite(found)


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 64, b"\x10" + b"\0" * 7 + b"[1,2,3,4,5,6,7,8"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.safetensors").write_bytes(content)
    with pytest.raises(TensorsError, match=r"odd\.safetensors: is no safetensors file"):
        tensors_of(tmp_path)


def test_a_cut_off_file_and_a_tensor_twice_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, a=ONES) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    with pytest.raises(TensorsError, match="is cut off"):
        tensors_of(tmp_path)
    file.write_bytes(content)
    (tmp_path / "second.safetensors").write_bytes(content)
    with pytest.raises(TensorsError, match=r"a is in model\.safetensors as well"):
        tensors_of(tmp_path)


def test_the_verifier_compares_with_the_model(tmp_path: Path) -> None:
    verifier = Verifier(str(write_model(tmp_path / "model")))
    good = write_model(tmp_path / "good", seed=1)
    assert verifier.check(WeightsTarget(version=1, path=str(good))).folder == good
    bad = write_model(tmp_path / "bad", seed=2)
    values = numpy.full((64,), numpy.nan, numpy.float32)
    from safetensors.numpy import load_file
    from safetensors.numpy import save_file as save

    weights = {**load_file(bad / "model.safetensors"), "model.norm.weight": values}
    save(weights, bad / "model.safetensors")
    with pytest.raises(WeightsError, match=r"bad: model\.safetensors: tensor model\.norm\.weight: value 0"):
        verifier.check(WeightsTarget(version=2, path=str(bad)))
    assert Verifier("no-such/model").original() is None
