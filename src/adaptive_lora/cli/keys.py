"""adaptive-lora keys mint | list | revoke: API keys, in the registry's database or through a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.client import actor, call
from adaptive_lora.cli.common import AsJson, Config, console, output, print_json, settings_from
from adaptive_lora.errors import InvalidRequest

if TYPE_CHECKING:
    from adaptive_lora.access.store import AccessStore

app = typer.Typer(help="API keys: who may call the server, and for what.", no_args_is_help=True)

ADMIN_VARIABLE = "ADAPTIVE_LORA_ADMIN_SERVER"
DEFAULT_DAYS = 90

Scopes = Annotated[
    list[str],
    typer.Option("--scope", "-s", help="generate, feedback, adapters:read, adapters:write, metrics, admin."),
]
Agents = Annotated[
    list[str] | None, typer.Option("--agent", "-a", help="An agent that exists for it; default: all.")
]
AdminServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="URL of a server's administrators' port; default: straight in the registry's database.",
        envvar=ADMIN_VARIABLE,
    ),
]


@app.command("mint")
def mint(
    name: Annotated[str, typer.Argument(help="Who will use it; stands in logs and in the history.")],
    scopes: Scopes = ["generate"],  # noqa: B006 - Typer copies it
    agents: Agents = None,
    tenant: Annotated[str | None, typer.Option(help="Whose; default: 'default', or yours.")] = None,
    tier: Annotated[
        str | None, typer.Option(help="Which limits apply; default: 'default', or yours.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", help=f"Until it expires; default: {DEFAULT_DAYS}.", min=0.001, max=36_500),
    ] = None,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="Valid until it is revoked.")
    ] = False,
    server: AdminServer = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is printed once, on stdout, and kept nowhere."""
    if never_expires and days is not None:
        raise InvalidRequest("choose --days or --never-expires")
    lifetime = None if never_expires else days or DEFAULT_DAYS
    if server is not None:
        body = {"name": name, "scopes": scopes, "agents": agents or None, "tenant": tenant, "tier": tier}
        answer = call(server, "POST", "/keys", json=body | {"expires_in_days": lifetime})
    else:
        answer = _mint(config, name, scopes, agents, tenant, tier, lifetime)
    if as_json:
        print_json(answer)
        return
    output().print(answer["key"], markup=False)
    expires = f"expires {answer['expires_at'][:10]}" if answer["expires_at"] else "never expires"
    console().print(f"{_who(answer)}: {', '.join(answer['scopes'])}; {expires}", style="dim", markup=False)


@app.command("list")
def list_keys(server: AdminServer = None, config: Config = None, as_json: AsJson = False) -> None:
    """List keys, also revoked and expired ones; never the keys themselves."""
    if server is not None:
        answer = call(server, "GET", "/keys")["keys"]
    else:
        from adaptive_lora.serving.schemas.access import key_fields

        with opened(config) as store:
            answer = [key_fields(key) for key in store.list_keys()]
    if as_json:
        print_json(answer)
        return
    table = Table("id", "name", "tenant", "scopes", "agents", "state", "last used (UTC)", box=None)
    table.columns[0].no_wrap = True  # what `revoke` asks for
    for column in table.columns[1:]:
        column.overflow = "fold"
    for key in answer:
        agents = "all" if key["agents"] is None else ", ".join(key["agents"])
        used = (key["last_used_at"] or "")[:16].replace("T", " ")
        table.add_row(
            key["id"], Text(key["name"]), key["tenant"], ", ".join(key["scopes"]), agents, _state(key), used
        )
    output().print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id: what stands after alk_.")],
    server: AdminServer = None,
    config: Config = None,
) -> None:
    """Refuse a key from now on, in all processes within seconds. It stays listed."""
    if server is not None:
        call(server, "DELETE", f"/keys/{key_id}")
    else:
        with opened(config) as store:
            store.revoke(key_id, who=actor())
    console().print(f"{key_id} is revoked", style="dim", markup=False)


@contextmanager
def opened(config: Any) -> Iterator[AccessStore]:
    """The store that the configured server uses. Whoever can write there may mint anything."""
    from adaptive_lora.serving import loading

    store = loading.open_access(settings_from(config, {}))
    try:
        yield store
    finally:
        store.close()


def _mint(
    config: Any,
    name: str,
    scopes: list[str],
    agents: list[str] | None,
    tenant: str | None,
    tier: str | None,
    days: float | None,
) -> dict[str, Any]:
    from adaptive_lora.access.records import NewKey
    from adaptive_lora.serving.principal import DEFAULT_TENANT, DEFAULT_TIER
    from adaptive_lora.serving.schemas.access import key_fields

    check_scopes(scopes)
    new = NewKey(
        name,
        tenant or DEFAULT_TENANT,
        frozenset(scopes),
        frozenset(agents) if agents else None,
        tier or DEFAULT_TIER,
        None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    with opened(config) as store:
        minted = store.mint(new, who=actor())
    return {**key_fields(minted.key), "key": minted.secret}


def check_scopes(scopes: list[str]) -> None:
    from adaptive_lora.serving.principal import SCOPES

    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise InvalidRequest(
            f"there is no scope {', '.join(map(repr, unknown))}; scopes: {', '.join(SCOPES)}"
        )


def _who(key: dict[str, Any]) -> str:
    agents = "" if key["agents"] is None else f", agents {', '.join(key['agents'])}"
    return f"key {key['id']} of {key['name']}, tenant {key['tenant']}{agents}"


def _state(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoked_at'][:10]}"
    if not key["expires_at"]:
        return "valid"
    is_over = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    return f"{'expired' if is_over else 'valid until'} {key['expires_at'][:10]}"
