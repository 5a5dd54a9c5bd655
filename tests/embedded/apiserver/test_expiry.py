"""Old events go, everything else stays."""

from datetime import UTC, datetime
from pathlib import Path

from shoal_embedded.apiserver.expiry import expire
from shoal_embedded.apiserver.storage import Storage


def test_forgets_events_after_an_hour(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "objects.sqlite")
    created = {"namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T10:00:00Z"}
    storage.put("events", {"metadata": {**created, "name": "old"}, "lastTimestamp": None})
    storage.put("events", {"metadata": {**created, "name": "again"}, "lastTimestamp": "2026-01-01T11:30:00Z"})
    storage.put("pods", {"metadata": {**created, "name": "pod"}})
    assert expire(storage, datetime(2026, 1, 1, 12, tzinfo=UTC)) == 1
    assert [body["metadata"]["name"] for _, body in storage.everything()] == ["again", "pod"]
    storage.close()
