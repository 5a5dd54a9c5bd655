"""Loading the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.configuration import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(source: str, dtype: str) -> PreTrainedModel:
    """The causal language model at `source` (a folder or a hub name), in float32: what it computes in is not what it is
    updated in, as steps of a usual learning rate round to nothing in any shorter type.

    Its weights are first rounded to `dtype` (`auto`: as they are stored), so that training starts from the very weights
    that engines start from. Raises ConfigurationError where there is no such model.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if source.startswith("/") and not Path(source, "config.json").is_file():
        raise ConfigurationError("model", f"{source} has no config.json; it must be a Hugging Face model folder")
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES.get(dtype, "auto"))
    except (OSError, ValueError) as error:
        raise ConfigurationError("model", f"{source} cannot be loaded: {error}") from None
    # Dropout would make the trainer's log-probs differ from the engines'; no policy is trained with it here.
    loaded: PreTrainedModel = model.eval().float()
    return loaded


def compute_type(config: TrainerConfig) -> torch.dtype:
    """The type that passes compute in and that weights are published in: the configured one, or the stored one."""
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    import transformers

    stored = transformers.AutoConfig.from_pretrained(config.model).get_text_config().dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32
