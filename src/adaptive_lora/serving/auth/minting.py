"""What an administrator may hand on: never more than it has."""

from __future__ import annotations

from adaptive_lora.access.records import ApiKey, NewKey
from adaptive_lora.errors import Forbidden
from adaptive_lora.serving.principal import Principal


def check_mintable(minter: Principal, new: NewKey) -> None:
    """Raises Forbidden unless `new` is within the minter's own tenant, scopes, agents, tier and lifetime."""
    _check_within(minter, new)
    if new.tier != minter.tier:
        raise Forbidden(f"a key that you mint has your own tier, {minter.tier!r}")
    if minter.expires_at is not None and (new.expires_at is None or new.expires_at > minter.expires_at):
        raise Forbidden(
            f"your own credential expires at {minter.expires_at.isoformat()}: a key that you mint cannot "
            "outlive it"
        )


def check_revocable(admin: Principal, key: ApiKey) -> None:
    """Raises Forbidden unless the key is within the administrator's own tenant, scopes and agents."""
    _check_within(admin, key)


def _check_within(holder: Principal, key: NewKey | ApiKey) -> None:
    if key.tenant != holder.tenant:
        raise Forbidden(f"your credential is for the tenant {holder.tenant!r} alone")
    beyond = sorted(scope for scope in key.scopes if not holder.has(scope))
    if beyond:
        raise Forbidden(f"your credential does not have the scopes {', '.join(beyond)}")
    if holder.agents is not None and (key.agents is None or not key.agents <= holder.agents):
        raise Forbidden(f"your credential is for these agents alone: {', '.join(sorted(holder.agents))}")
