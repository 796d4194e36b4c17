"""adaptive-lora token mint | revoke: JSON Web Tokens signed with the server's own secret, and their end."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from adaptive_lora.cli.client import actor, call
from adaptive_lora.cli.common import AsJson, Config, console, output, print_json, settings_from
from adaptive_lora.cli.keys import AdminServer, Agents, Scopes, check_scopes, opened
from adaptive_lora.errors import SettingsError

app = typer.Typer(
    help="JSON Web Tokens. An identity provider makes them in production; here, for those without one.",
    no_args_is_help=True,
)
Tenant = Annotated[str, typer.Option(help="Whose.")]


@app.command("mint")
def mint(
    subject: Annotated[str, typer.Argument(help="Who will use it: its sub.")],
    scopes: Scopes = ["generate"],  # noqa: B006 - Typer copies it
    agents: Agents = None,
    tenant: Tenant = "default",
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Until it expires.")] = 60,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Sign a token with auth.jwt_secret (HS256). It is printed on stdout."""
    import jwt

    from adaptive_lora.serving.auth.gate import make_verifier
    from adaptive_lora.serving.auth.keyring import SecretKeyring

    auth = settings_from(config, {}).auth
    verifier = make_verifier(auth)
    if verifier is None or not isinstance(verifier.keyring, SecretKeyring):
        raise SettingsError(
            "set auth.jwt_secret (JWT_SECRET); tokens of a JWKS file are signed by their issuer"
        )
    if auth.require_agents and not agents:
        raise SettingsError("auth.require_agents is true: say for which agents, with --agent")
    check_scopes(scopes)
    now = datetime.now(UTC)
    claims = {
        "iss": auth.issuer,
        "aud": auth.audience,
        "sub": subject,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "jti": uuid.uuid4().hex,
        "iat": now,
        "exp": now + timedelta(minutes=minutes),
        **({"agents": agents} if agents else {}),
    }
    token = jwt.encode(claims, verifier.keyring.keys(None)[0], "HS256", headers={"typ": "at+jwt"})
    verifier.verify(token)  # what this server would not accept is not handed out
    if as_json:
        print_json({"token": token, "jti": claims["jti"]})
        return
    output().print(token, markup=False)
    console().print(f"jti {claims['jti']}, for `token revoke`", style="dim", markup=False)


@app.command("revoke")
def revoke(
    jti: Annotated[str, typer.Argument(help="The token's jti.")],
    tenant: Tenant = "default",
    server: AdminServer = None,
    config: Config = None,
) -> None:
    """Refuse a tenant's token from now on, in all processes within seconds."""
    if server is not None:
        call(server, "POST", "/tokens:revoke", json={"jti": jti})
    else:
        with opened(config) as store:
            store.revoke_token(tenant, jti, who=actor())
    console().print(f"{jti} is revoked", style="dim", markup=False)
