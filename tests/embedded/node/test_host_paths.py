"""Where host paths of manifests lie on this machine."""

from pathlib import Path
from typing import Any

import pytest

from shoal_embedded.node.volumes import Claims, VolumeSources


class FakeObjects:
    """No object at all."""

    def secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        return None

    config_map = secret

    def services(self, namespace: str) -> dict[str, tuple[str, list[dict[str, Any]]]]:
        return {}


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/var/lib/shoal", "/home/me/my data"),
        ("/var/lib/shoal/models/tiny", "/home/me/my data/models/tiny"),
        ("/var/lib/shoal-2", "/var/lib/shoal-2"),
        ("/srv/models", "/srv/models"),
    ],
)
def test_what_users_may_not_write_is_a_folder_of_theirs(path: str, real: str) -> None:
    sources = VolumeSources(FakeObjects(), Claims(lambda namespace, name: None), Path("/home/me/my data"))
    assert sources.host_path(Path(path)) == Path(real)
    assert VolumeSources(FakeObjects(), sources.claims).host_path(Path(path)) == Path(path)
