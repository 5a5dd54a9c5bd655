"""Bearer tokens as their Secrets hold them."""

import hashlib


def token_digest(token: str) -> str:
    """SHA-256 of a token in hexadecimal digits; it gives nothing away, because a token has 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()
