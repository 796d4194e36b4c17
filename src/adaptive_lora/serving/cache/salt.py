"""Each tenant's salt for the engine's prefix cache, so that no tenant can tell by the time to the first token
what another one has asked (CVE-2025-46570)."""

from __future__ import annotations

import hmac
import secrets
from functools import lru_cache

SALT_BYTES = 16
MAX_KNOWN = 10_000
"""Tenants whose salt need not be computed again."""


class TenantSalts:
    """Salts of fixed length that tell nothing of the tenant. Gateways in front of the same workers need the
    same `secret` to share prefixes; without one each process has its own."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = hmac.digest(secret or secrets.token_bytes(32), b"cache salt", "sha256")
        self.of = lru_cache(MAX_KNOWN)(self._of)
        """32 hexadecimal digits of a tenant, for `GenerateRequest.cache_salt`."""

    def _of(self, tenant: str) -> str:
        return hmac.digest(self._secret, tenant.encode("utf-8", "surrogatepass"), "sha256")[:SALT_BYTES].hex()
