"""Tokens and keys to sign them with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

SECRET = "Zm9yLXRlc3RzLWFsb25lLW5vdC1hLXJlYWwtb25l-0aBcD3fGh1jK"
NAME = "adaptive-lora"
RSA_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
ED_KEYS = [ed25519.Ed25519PrivateKey.generate() for _ in range(2)]


def claims(**changes: Any) -> dict[str, Any]:
    """Of a token that is good for a minute; None leaves a claim out."""
    usual = {"iss": NAME, "aud": NAME, "sub": "ann", "scope": "generate", "exp": int(time.time()) + 60}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def token(
    key: Any = SECRET, algorithm: str = "HS256", *, headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


def segment(value: object) -> str:
    """One part of a token, from JSON."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def jwk(private_key: Any, kid: str, **changes: Any) -> dict[str, Any]:
    """The public key, as a JWKS has it."""
    kind = RSAAlgorithm if isinstance(private_key, rsa.RSAPrivateKey) else OKPAlgorithm
    return kind.to_jwk(private_key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | changes


def write_jwks(path: Path, *keys: dict[str, Any]) -> Path:
    """As operators should: the whole file at once."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"keys": keys}))
    return draft.replace(path)


def signed(header: dict[str, Any], payload: dict[str, Any], secret: bytes = SECRET.encode()) -> str:
    """HMAC-SHA256 over any header and claims, also such as a library would refuse to sign."""
    text = f"{segment(header)}.{segment(payload)}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
