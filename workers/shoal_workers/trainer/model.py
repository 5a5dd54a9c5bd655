"""Loading the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shoal_workers.service.config import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(source: str, dtype: str) -> PreTrainedModel:
    """The causal language model at `source` (a folder or a hub name), on the accelerator where there is one.

    `auto` keeps the data type that the weights are stored in. Raises ConfigurationError where there is no such model.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if source.startswith("/") and not Path(source, "config.json").is_file():
        raise ConfigurationError("model", f"{source} has no config.json; it must be a Hugging Face model folder")
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES.get(dtype, "auto"))
    except (OSError, ValueError) as error:
        raise ConfigurationError("model", f"{source} cannot be loaded: {error}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Dropout would make the trainer's log-probs differ from the engines'; no policy is trained with it here.
    model.to(device)
    loaded: PreTrainedModel = model.eval()
    return loaded
