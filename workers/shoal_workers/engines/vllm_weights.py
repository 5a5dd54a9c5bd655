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
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info
from vllm.platforms import current_platform

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
        """Unpack the layers, to be filled one by one; what an update that failed has left is put back first."""
        put_back(self.model)
        unset_packed_experts(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a folder; the base class would wait for an accelerator that may not exist."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: DiskUpdate) -> None:
        """Load every tensor of the folder."""
        load: Any = self.model.load_weights
        load(tensors_in(Path(update_info.folder)))

    def finish_weight_update(self) -> None:
        """Pack the layers again; raises ValueError for layers that got no weights.

        Of a model that also sees or hears, a trainer of its language alone publishes only that.
        """
        empty = [] if self.model_config.is_multimodal_model else empty_layers(self.model)
        if empty:
            raise ValueError(f"no new weights for {', '.join(empty[:3])}" + ", ..." * (len(empty) > 3))
        finalize: Any = finalize_layerwise_reload
        finalize(self.model, self.model_config)
        pack_embeddings(self.model)

    def shutdown(self) -> None:
        """Nothing to do."""


def tensors_in(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of all safetensors files, one tensor in memory at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, opened.get_tensor(name)


def put_back(model: torch.nn.Module) -> None:
    """End an update that failed half way: layers that wait for weights get their tensors back.

    Those that were complete have the new ones already; the update that follows replaces all.
    """
    for layer in model.modules():
        info: Any = get_layerwise_info(layer)
        if info.can_load():
            if info.kernel_tensors is not None:
                _place_kernel_tensors(layer, info)
            info.reset()


def empty_layers(model: torch.nn.Module) -> list[str]:
    """Layers that an update has brought no weights, of those that had some and share them with no other layer.

    (A tied output layer has the embeddings' parameter.)
    """
    given: set[int] = set()
    empty: dict[str, list[int]] = {}
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        held = info.kernel_tensors[0] if info.kernel_tensors is not None else dict(layer._parameters)
        parameters = [id(parameter) for parameter in held.values() if parameter is not None]
        if info.can_load() and info.load_numel <= 0 and not is_deferred_attention_layer(layer):
            empty[name] = parameters
        else:
            given.update(parameters)
    return [name for name, parameters in empty.items() if not given.issuperset(parameters)]


def unset_packed_experts(model: torch.nn.Module) -> None:
    """Have a CPU build pack the experts of an update: vLLM does that only while a layer has no kernel yet.

    (On GPUs the kernel stays, because captured graphs know its tensors' addresses.)
    """
    if not current_platform.is_cpu():
        return
    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def pack_embeddings(model: torch.nn.Module) -> None:
    """Pack embeddings anew where a CPU build multiplies with packed copies of them.

    A tied output layer gets no weights of its own in an update, so vLLM leaves its packed copy as it was.
    """
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
            method: Any = layer.quant_method
            method.process_weights_after_loading(layer)


class ShoalWorkerExtension:
    """Mixed into vLLM's worker; importing its module is what matters."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, DiskTransfer)
