"""Lists in pages: a token says of which version the list is and after which object it goes on."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass

import orjson

from shoal_embedded.apiserver.errors import bad_request

_KIND = "meta.k8s.io/v1"


@dataclass(frozen=True)
class Place:
    """Where a list goes on: in this version, after this object."""

    version: int
    after: tuple[str, str]

    def token(self) -> str:
        """What the client hands back."""
        start = f"{self.after[0]}/{self.after[1]}\0"
        return urlsafe_b64encode(orjson.dumps({"v": _KIND, "rv": self.version, "start": start})).decode().rstrip("=")


def place(token: str) -> Place:
    """Where a token goes on; raises 400 for one that no server made."""
    try:
        body = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = str(body["start"]).rstrip("\0").partition("/")
        return Place(int(body["rv"]), (namespace, name))
    except (NotBase64, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request("invalid continue token: continue key is not valid") from error
