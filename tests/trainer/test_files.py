"""Checkpoints and published versions: whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from shoal.api.services.models import WeightsManifest, WeightsTarget
from shoal.api.services.trajectories import TrainedBatch
from shoal_workers.trainer import checkpoint, publish
from shoal_workers.trainer.files import keep_skipped, new_folder, numbered, sha256
from shoal_workers.trainer.model import load_model
from shoal_workers.trainer.progress import Progress
from tests.models import write_model


def test_a_version_is_a_model_that_loads_with_true_checksums(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = load_model(str(tmp_path / "model"), "auto")
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1.0)  # type: ignore[no-untyped-call]
    target = publish.publish(
        tmp_path / "versions",
        model,
        model.state_dict(),
        publish.companions_of(str(tmp_path / "model")),
        version=3,
        step=2,
        run="lake-1",
    )
    assert (target.version, target.run) == (3, "lake-1")
    folder = Path(target.path)
    assert folder == tmp_path / "versions" / "3"
    manifest = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == target.checksum
    files = json.loads(manifest)["files"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert all(sha256(folder / name) == entry["sha256"] for name, entry in files.items())
    prompt = WeightsManifest.model_validate_json(manifest).fixed_prompt
    assert prompt is not None
    with torch.no_grad():
        logits = model(torch.tensor([prompt.token_ids])).logits[0, :-1]
    own = torch.log_softmax(logits, -1).gather(1, torch.tensor(prompt.token_ids)[1:, None])[:, 0]
    assert prompt.logprobs == pytest.approx(own.tolist(), abs=1e-5)
    again = load_model(target.path, "auto")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert publish.latest(tmp_path / "versions", "lake-1") == target


def test_nothing_is_latest_before_the_first(tmp_path: Path) -> None:
    assert publish.latest(tmp_path, "lake-1") is None


def test_a_version_that_was_published_in_no_name_is_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "latest.json").write_text('{"version": 4, "path": "/versions/4", "checksum": "abc"}')
    target = WeightsTarget(version=4, path="/versions/4", checksum="abc", run="lake-1")
    assert publish.latest(tmp_path, "lake-1") == target


def test_old_versions_go_unless_an_engine_serves_them(tmp_path: Path) -> None:
    for version in (1, 2, 3, 4, 5):
        (tmp_path / str(version)).mkdir()
    assert publish.prune(tmp_path, keep=2, in_use={1, 99}) == [2, 3]
    assert numbered(tmp_path) == [1, 4, 5]


def test_no_version_goes_while_nobody_knows_what_engines_use(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        (tmp_path / str(version)).mkdir()
    assert publish.prune(tmp_path, keep=1, in_use=None) == []
    assert numbered(tmp_path) == [1, 2, 3]
    assert publish.prune(tmp_path, keep=1, in_use=()) == [1, 2]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    batches = (TrainedBatch(id="a", step=3, version=3), TrainedBatch(id="b", step=4, version=6))
    progress = Progress(step=4, version=6, consumed=batches)
    state = {"model": {"w": torch.ones(2)}, "generator": torch.Generator().get_state()}
    checkpoint.save(tmp_path, progress, state, keep=2)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0] == progress
    assert torch.equal(found[1]["model"]["w"], torch.ones(2))


def test_a_checkpoint_that_names_batches_by_their_ids_alone_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, Progress(step=6), {}, keep=2)
    old = '{"step": 6, "version": 8, "consumed": ["a", "b", "c"], "figures": {"loss": 0.5}}'
    (tmp_path / "6" / "progress.json").write_text(old)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found[0].step, found[0].version, found[0].figures) == (6, 8, {"loss": 0.5})
    assert [(batch.id, batch.step) for batch in found[0].consumed] == [("a", 4), ("b", 5), ("c", 6)]
    assert Progress.model_validate_json('{"step": 0, "version": 0, "consumed": []}') == Progress()


def test_the_newest_readable_checkpoint_counts(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, Progress(step=step, version=step), {"step": step}, keep=5)
    (tmp_path / "3" / "learner.pt").write_bytes(b"torn")
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0].step == 2


def test_checkpoints_of_which_none_can_be_read_are_no_reason_to_begin_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, Progress(step=step, version=step), {"step": step}, keep=5)
        (tmp_path / str(step) / "learner.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"no checkpoint can be read, and the newest \(2\) not because of: "):
        checkpoint.newest(tmp_path)


def test_of_the_batches_that_were_skipped_the_newest_few_are_kept(tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "skipped" / f"b{number}.batch"
        keep_skipped(path, bytes([number]))
        os.utime(path, (number, number))
    assert sorted(path.name for path in path.parent.iterdir()) == [f"b{number}.batch" for number in range(3, 8)]


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, Progress(step=step, version=step), {}, keep=2)
    assert numbered(tmp_path) == [2, 3]
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_the_reference_stays_what_it_was_when_the_job_began(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    first = checkpoint.keep_reference(folder, {"w": torch.ones(2)})
    again = checkpoint.keep_reference(folder, {"w": torch.zeros(2)})
    assert torch.equal(first["w"], torch.ones(2))
    assert torch.equal(again["w"], torch.ones(2))
    assert numbered(folder) == []


def test_a_folder_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "7"
    with new_folder(target) as folder:
        (folder / "file").write_text("old")

    def fail() -> None:
        with new_folder(target) as folder:
            (folder / "file").write_text("new")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
