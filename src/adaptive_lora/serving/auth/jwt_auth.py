"""`JWTAuth`: tokens for any FastAPI application, as a dependency.

    auth = JWTAuth(secret_key=os.environ["JWT_SECRET"], algorithm="HS256")

    @app.post("/generate")
    async def generate(request: GenerationRequest, user: User = Depends(auth.get_current_user)): ...

The server's own endpoints verify tokens with the same code (gate.py), and know API keys and revocation, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from adaptive_lora.errors import SettingsError, Unauthenticated
from adaptive_lora.serving.auth.keyring import JWKSKeyring, Keyring, SecretFileKeyring, SecretKeyring
from adaptive_lora.serving.auth.tokens import TokenVerifier
from adaptive_lora.serving.errors import CHALLENGES, status_of
from adaptive_lora.serving.principal import Principal

User = Principal
"""Who calls, in the deployment guide's word."""

DEFAULT_NAME = "adaptive-lora"
"""Issuer and audience."""

_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT")


class JWTAuth:
    """Verifies bearer tokens."""

    def __init__(
        self,
        secret_key: str | None = None,
        algorithm: str = "HS256",
        *,
        jwks_file: Path | None = None,
        issuer: str = DEFAULT_NAME,
        audience: str = DEFAULT_NAME,
        leeway_s: float = 10.0,
    ) -> None:
        """HS256 with a secret, or RS256 or EdDSA with a JWKS file of public keys.

        Raises SettingsError for a secret that can be guessed, and for keys that do not fit the algorithm.
        """
        keyring = make_keyring(secret_key, algorithm, jwks_file)
        self.verifier = TokenVerifier(keyring, issuer=issuer, audience=audience, leeway_s=leeway_s)

    async def get_current_user(
        self, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> User:
        """The token's user. Raises HTTPException with status 401 if there is no valid token."""
        try:
            if credentials is None:
                raise Unauthenticated("send a token: Authorization: Bearer ...")
            return self.verifier.verify(credentials.credentials)[0]
        except Unauthenticated as error:
            status = status_of(error)
            challenge = {"WWW-Authenticate": CHALLENGES[status]}
            raise HTTPException(status, error.message, challenge) from None


def make_keyring(
    secret: str | None, algorithm: str, jwks_file: Path | None, secret_file: Path | None = None
) -> Keyring:
    """Raises SettingsError unless there is a secret for HS256, as it is or in a file, or public keys for the
    others; and nothing else."""
    if algorithm == "HS256":
        if jwks_file is not None or (secret is None and secret_file is None):
            raise SettingsError(
                "tokens with HS256 need a secret (auth.jwt_secret or auth.jwt_secret_file), and no "
                "auth.jwks_file"
            )
        if secret is None and secret_file is not None:
            return SecretFileKeyring(secret_file)
        if secret is not None and secret_file is None:
            return SecretKeyring(secret)
        raise SettingsError("set auth.jwt_secret or auth.jwt_secret_file, not both")
    if algorithm not in ("RS256", "EdDSA"):
        raise SettingsError(f"tokens are signed with HS256, RS256 or EdDSA, not with {algorithm!r}")
    if jwks_file is None or secret is not None or secret_file is not None:
        raise SettingsError(f"tokens with {algorithm} need auth.jwks_file, and no secret (auth.jwt_secret)")
    return JWKSKeyring(jwks_file, algorithm)
