"""vLLM's side of a weight update from a folder: the weight-transfer backend `disk`.

vLLM has no such backend of its own. Imported by every vLLM worker process through `--worker-extension-cls`, before the
worker makes its weight-transfer engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "disk"


@dataclass
class DiskInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class DiskUpdate(WeightTransferUpdateInfo):
    """Folder of safetensors files to load."""

    folder: str = ""


class DiskTransfer(WeightTransferEngine[Any, Any]):
    """Reads each worker's shard of the weights from a folder that all workers can see.

    Loads through vLLM's layer-wise reload, because on CPU the live linear weights are packed and cannot be written to.
    """

    init_info_cls = DiskInit
    update_info_cls = DiskUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: DiskInit) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Unpack the layers, to be filled one by one."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a folder; the base class would wait for an accelerator that may not exist."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: DiskUpdate) -> None:
        """Load every tensor of the folder."""
        load: Any = self.model.load_weights
        load(tensors_in(Path(update_info.folder)))

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        finalize: Any = finalize_layerwise_reload
        finalize(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to do."""


def tensors_in(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of all safetensors files, one tensor in memory at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, opened.get_tensor(name)


class ShoalWorkerExtension:
    """Mixed into vLLM's worker; importing its module is what matters."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, DiskTransfer)
