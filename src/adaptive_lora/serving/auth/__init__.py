"""Who calls: API keys and JSON Web Tokens in, a `Principal` out; and what it may do on the matched route."""

from adaptive_lora.serving.auth.jwt_auth import JWTAuth, User

__all__ = ["JWTAuth", "User"]
