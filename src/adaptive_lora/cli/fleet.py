"""adaptive-lora adapters add | status | load | unload | pin | unpin | alias | canary | promote | rollback |
retire | restore | delete | history: the fleet of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.client import DEFAULT_SERVER, Server, actor, call, packed
from adaptive_lora.cli.common import AsJson, console, output, print_json
from adaptive_lora.errors import InvalidRequest

Name = Annotated[str, typer.Argument(help="The adapter's name.")]
Ref = Annotated[str, typer.Argument(help="A version's digits, or an alias.")]
Why = Annotated[str, typer.Option("--why", help="For the history.")]
Share = Annotated[
    float | None,
    typer.Option("--share", min=0.0001, max=0.9999, help="Share of the bare name's traffic for the alias."),
]

PACKED_TYPE = "application/x-tar"


def register(app: typer.Typer) -> None:
    """Add these commands to the `adapters` group."""
    for name in ("load", "unload", "pin", "unpin", "restore"):
        app.command(name, help=_ACTIONS[name])(_action(name))
    app.command("add")(add)
    app.command("status")(status)
    app.command("alias")(alias)
    app.command("canary")(canary)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("retire", help=_ACTIONS["retire"])(_action("retire"))
    app.command("delete")(delete)
    app.command("history")(history)


_ACTIONS = {
    "load": "Load a version that the server knows; answers when it can be asked for.",
    "unload": "Unload a version; what runs with it finishes. Refused while an alias points to it.",
    "pin": "Keep a version in its slot, whatever else is asked for.",
    "unpin": "Let a version be evicted again.",
    "retire": "Take a version out of service, and keep it. Refused while an alias points to it.",
    "restore": "Take a retired version back; it is not loaded yet.",
}


def _action(action: str) -> Any:
    def run(
        name: Name, ref: Ref, why: Why = "", server: Server = DEFAULT_SERVER, as_json: AsJson = False
    ) -> None:
        answer = call(server, "POST", f"/adapters/{name}/versions/{ref}/{action}", json=_by(why))
        _show_version(answer, as_json)

    return run


def add(
    source: Annotated[str, typer.Argument(help="A folder or archive here, or hf://, s3://, gs://, az://.")],
    alias_name: Annotated[str | None, typer.Option("--alias", help="What points to it.")] = None,
    share: Share = None,
    force: Annotated[
        bool, typer.Option("--force", help="Serve it even if it fails the effect checks; recorded.")
    ] = False,
    why: Why = "",
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Add an adapter to a running server: verified, proven, then served.

    A folder or an archive on this machine is sent along; a URI is fetched by the server, which must allow it.
    """
    path = Path(source)
    if "://" not in source and not path.is_absolute() and not path.exists():
        raise InvalidRequest(f"there is no {source!r} here: name an adapter's folder, an archive, or a URI")
    if path.is_dir() and not (path / "manifest.json").is_file():
        raise InvalidRequest(f"{source!r} is no adapter's folder: it has no manifest.json")
    with console().status(f"{server} verifies {source}"):
        if path.exists():
            params = {"alias": alias_name, "share": share, "force": force, "who": actor(), "why": why}
            content = packed(path) if path.is_dir() else _pieces(path)
            answer = call(
                server, "POST", "/adapters:upload", params=params, content=content, content_type=PACKED_TYPE
            )
        else:
            body = {"source": source, "alias": alias_name, "share": share, "force": force, **_by(why)}
            answer = call(server, "POST", "/adapters", json=body)
    _show_version(answer, as_json)


def status(
    name: Annotated[str | None, typer.Argument(help="One adapter; default: all that are served.")] = None,
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Show what a running server serves; of one adapter every version that it knows."""
    answer = call(server, "GET", f"/adapters/{name}" if name else "/adapters")
    if as_json:
        print_json(answer)
        return
    versions = answer["versions"] if name else answer["adapters"]
    shares = {each["alias"]: each["share"] for each in answer["aliases"]} if name else {}
    where_title = "pinned" if name else "where"  # of one adapter the server does not say where it lies
    table = Table("agent", "version", "state", "aliases", where_title, "rank", "description", box=None)
    for version in versions:
        aliases = version["aliases"]
        given = ((alias, shares[alias]) for alias in aliases) if name else aliases.items()
        shown = [_with_share(*each) for each in given]
        where = version.get("residency", "") + (" pinned" if version["pinned"] else "")
        state = version["state"] + (" (forced)" if version.get("forced") else "")
        table.add_row(
            Text(version["name"]),
            version["version"],
            state,
            ", ".join(shown),
            where.strip(),
            str(version["rank"]),
            Text(version["description"]),
        )
    output().print(table)
    for version in versions:
        if version.get("problem"):
            console().print(f"{version['id']}: {version['problem']}", style="red", markup=False)
    for refused in answer.get("rejected", ()):
        console().print(
            f"not served: {refused['folder']}: {refused['message']} ({refused['code']})",
            style="red",
            markup=False,
        )


def alias(
    name: Name,
    alias_name: Annotated[str, typer.Argument(metavar="ALIAS", help="prod, canary, or a name of yours.")],
    ref: Annotated[str | None, typer.Argument(help="A version's digits, or an alias.")] = None,
    share: Share = None,
    expected: Annotated[
        str | None, typer.Option("--expected", help="Only if the alias points to this version now.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Forget the alias instead.")] = False,
    why: Why = "",
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version, or forget it."""
    path = f"/adapters/{name}/aliases/{alias_name}"
    if drop:
        call(server, "DELETE", path, params=_by(why))
        return
    if ref is None:
        raise typer.BadParameter("name the version, or --drop the alias")
    body = {"version": ref, "share": share, "expected": expected, **_by(why)}
    _show_alias(call(server, "PUT", path, json=body), as_json)


def canary(
    name: Name,
    ref: Ref,
    share: Annotated[
        float, typer.Option("--share", min=0.0001, max=0.9999, help="Share of the bare name's traffic.")
    ] = 0.1,
    why: Why = "",
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Let a version answer a share of the agent's traffic: the alias `canary`."""
    body = {"version": ref, "share": share, **_by(why)}
    _show_alias(call(server, "PUT", f"/adapters/{name}/aliases/canary", json=body), as_json)


def promote(
    name: Name,
    alias_name: Annotated[str, typer.Option("--alias", help="What becomes prod.")] = "canary",
    why: Why = "",
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Make the canary `prod`."""
    body = {"alias": alias_name, **_by(why)}
    _show_alias(call(server, "POST", f"/adapters/{name}/promote", json=body), as_json)


def rollback(
    name: Name,
    to: Annotated[str | None, typer.Option("--to", help="A version; default: the one before.")] = None,
    why: Why = "",
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Make the version before `prod` again."""
    body = {"to": to, **_by(why)}
    _show_alias(call(server, "POST", f"/adapters/{name}/rollback", json=body), as_json)


def delete(name: Name, ref: Ref, why: Why = "", server: Server = DEFAULT_SERVER) -> None:
    """Remove a retired version and its files for good; the history stays."""
    call(server, "DELETE", f"/adapters/{name}/versions/{ref}", params=_by(why))


def history(
    name: Name,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Newest entries.")] = 20,
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Show who changed what of an adapter, when, and why."""
    entries = call(server, "GET", f"/adapters/{name}/history", params={"limit": limit})["entries"]
    if as_json:
        print_json(entries)
        return
    table = Table("when (UTC)", "who", "what", "why", box=None)
    table.columns[0].no_wrap = True
    for entry in entries:
        cells = (entry["who"], _what(entry), entry["why"])
        table.add_row(entry["at"][:16].replace("T", " "), *(Text(cell) for cell in cells))
    output().print(table)


def _what(entry: dict[str, Any]) -> str:
    """As "promote prod: 3f9c2a000001 -> 5d21c0000002"."""
    about = entry["alias"] or entry["version"] or ""
    moved = f": {entry['before'] or 'nothing'} -> {entry['after'] or 'nothing'}" if entry["alias"] else ""
    return f"{entry['action']} {about}{moved}"


def _by(why: str) -> dict[str, str]:
    return {"who": actor(), "why": why}


def _pieces(path: Path) -> Any:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _with_share(alias_name: str, share: float | None) -> str:
    return f"{alias_name} {share:.0%}" if share else alias_name


def _show_version(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    aliases = f", {', '.join(answer['aliases'])}" if answer["aliases"] else ""
    pinned = ", pinned" if answer["pinned"] else ""
    output().print(f"{answer['id']}: {answer['state']}{aliases}{pinned}", markup=False)
    if answer["refusal"]:
        console().print(f"by force: {answer['refusal']}", style="yellow", markup=False)
    if effect := answer["reports"].get("effect"):
        console().print(_effect(effect), style="dim", markup=False)


def _effect(report: dict[str, Any]) -> str:
    difference = f"differs from the base by {report['difference']:.2f} nats a token"
    if report["advantage"] is None:
        return f"{difference}; the manifest has no probes, so whether it is better is not known"
    return f"{difference}; on its {report['n_probes']} probes better by {report['advantage']:.2f}"


def _show_alias(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    share = f", {answer['share']:.0%} of the traffic" if answer["share"] else ""
    output().print(f"{answer['name']}@{answer['alias']} is version {answer['version']}{share}", markup=False)
