"""Builds the policy that the FrozenLake example starts from: a tiny Qwen3 that knows the format and nothing else.

    python examples/frozenlake/build_model.py --out DIR

The folder is an ordinary Hugging Face model (config, safetensors, tokenizer with a chat template): about 95,000
parameters in float32, so that two engines, a trainer and everything else fit on a laptop. Nothing is downloaded.

The policy answers "state 7" by naming the state and then an action: "7 left". The warm start teaches this *format*
alone: supervised steps on made-up conversations whose states and whose (always valid) actions are drawn at random,
independently of each other. Which action is good in which state is left to learn from the environment's reward.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

RECIPE = "recipe.sha256"


def recipe(seed: int, states: int) -> str:
    """What a model is made by: the policy's code and the arguments. The same recipe gives the same model."""
    code = Path(__file__).with_name("policy.py").read_bytes()
    return hashlib.sha256(code + f" {seed} {states}".encode()).hexdigest()


def recipe_of(folder: Path) -> str | None:
    """The recipe of the model in the folder, None where there is no model of this program."""
    try:
        return (folder / RECIPE).read_text()
    except OSError:
        return None


def main() -> None:
    """Build, warm up, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=int, default=16, help="states of the lake (16 for 4x4)")
    arguments = parser.parse_args()
    made_by = recipe(arguments.seed, arguments.states)
    if recipe_of(arguments.out) == made_by:
        print(json.dumps({"model": str(arguments.out), "built": False}))
        return
    # Imported here alone: most of the time the model is there, and torch takes seconds to load.
    import policy

    policy.torch.set_num_threads(1)
    words = policy.vocabulary(arguments.states)
    model = policy.build_model(words, arguments.seed)
    loss = policy.warm_start(model, words, arguments.states, arguments.seed)
    policy.save(arguments.out.absolute(), model, policy.build_tokenizer(words), {RECIPE: made_by})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"model": str(arguments.out), "parameters": parameters, "format_loss": round(loss, 3)}))


if __name__ == "__main__":
    main()
