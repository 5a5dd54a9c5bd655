"""A small operator for `test_shell`: copies each ConfigMap labelled `copy=yes` into one named `<name>-copy`.

Run with a kubeconfig, a namespace and the liveness URL as arguments.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from shoal.engine.keys import ObjectKey
from shoal.engine.manager import Manager, Result
from shoal.engine.reflector import Reflector
from shoal.engine.shell import ShellSettings, run_shell
from shoal.engine.store import Store
from shoal.kube import Json, KubeClient, kubeconfig_source
from shoal.kube.resources import CONFIG_MAPS


class Copier:
    def __init__(self, client: KubeClient, store: Store[Json]) -> None:
        self._client = client
        self._store = store

    async def reconcile(self, key: ObjectKey) -> Result:
        data = self._store.get(key)
        if data is not None:
            copy = {"metadata": {"name": f"{key.name}-copy"}, "data": data}
            await self._client.apply(CONFIG_MAPS, copy, key.namespace)
        return Result()


async def main(kubeconfig: str, namespace: str, liveness: str) -> None:
    async def build(client: KubeClient) -> Manager:
        store: Store[Json] = Store(lambda body: body.get("data") or {})
        manager = Manager(client)
        reflector = manager.add_reflector(Reflector(client, CONFIG_MAPS, store, namespace=namespace, labels="copy=yes"))
        reflector.on_key(manager.add_controller("copier", Copier(client, store)).queue.add)
        return manager

    settings = ShellSettings(liveness=liveness, namespace=namespace)
    await run_shell(kubeconfig_source(Path(kubeconfig)), build, settings)
    print("ended well")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
