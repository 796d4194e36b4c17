"""How aliases move: pointed, dropped, promoted, rolled back. Each function is a whole change."""

from __future__ import annotations

import math

import sqlalchemy as sa

from adaptive_lora.adapters.records import ANY, PROD, Action, AliasRecord, Expected
from adaptive_lora.adapters.registry_change import Change
from adaptive_lora.adapters.registry_rows import (
    read_alias,
    read_aliases,
    read_history,
    read_version,
    read_versions,
)
from adaptive_lora.adapters.registry_tables import aliases, history
from adaptive_lora.errors import Conflict, InvalidRequest

LEFT_FOR_PROD = 1e-6
"""Share that others must leave at least; more than what sums of decimal fractions are wrong by."""


def point(
    change: Change, name: str, alias: str, version: str, share: float | None, expected: Expected
) -> AliasRecord:
    _refuse_retired(change, name, version)
    known = {record.alias: record for record in read_aliases(change.connection, name)}
    before = known.pop(alias, None)
    _check_expected(name, alias, before, expected)
    if share is not None:
        _check_room(name, share, known)
    return _move(change, "point", AliasRecord(name, alias, version, share), before)


def drop(change: Change, name: str, alias: str, expected: Expected) -> None:
    record = read_alias(change.connection, name, alias)
    _check_expected(name, alias, record, expected)
    _remove(change, "drop", record)


def promote(change: Change, name: str, alias: str, expected: Expected) -> AliasRecord:
    if alias == PROD:
        raise InvalidRequest(f"{PROD!r} is what others are promoted to: name another alias")
    record = read_alias(change.connection, name, alias)
    _check_expected(name, alias, record, expected)
    prods = [known for known in read_aliases(change.connection, name) if known.alias == PROD]
    promoted = AliasRecord(name, PROD, record.version, None)
    _move(change, "promote", promoted, prods[0] if prods else None)
    _remove(change, "promote", record)
    return promoted


def rollback(change: Change, name: str, to: str | None, expected: Expected) -> AliasRecord:
    prod = read_alias(change.connection, name, PROD)
    _check_expected(name, PROD, prod, expected)
    sharing = [record for record in read_aliases(change.connection, name) if record.share is not None]
    if to is not None:
        _refuse_retired(change, name, to)
    elif not sharing:
        to = _before(change, prod)
    for record in sharing:
        _move(change, "rollback", AliasRecord(name, record.alias, record.version, None), record)
    return _move(change, "rollback", AliasRecord(name, PROD, to or prod.version, None), prod)


def _before(change: Change, prod: AliasRecord) -> str:
    """The version that `prod` meant before the present one."""
    where = (history.c.name == prod.name, history.c.alias == PROD, history.c.after.is_not(None))
    meant = [entry.after for entry in reversed(read_history(change.connection, *where))]
    # Back to before the present version came, however often somebody has gone to and fro.
    earlier = meant[: meant.index(prod.version)] if prod.version in meant else []
    records = read_versions(change.connection, prod.name)
    usable = {record.version for record in records if not record.retired}
    for version in reversed(earlier):
        if version in usable:
            return version
    raise Conflict(
        f"{prod.name!r} has meant no version before {prod.version} that is still there: name the one to go to"
    )


def _refuse_retired(change: Change, name: str, version: str) -> None:
    record = read_version(change.connection, name, version)
    if record.retired:
        raise Conflict(f"{record.id} is retired: restore it first")


def _check_expected(name: str, alias: str, record: AliasRecord | None, expected: Expected) -> None:
    actual = None if record is None else record.version
    if expected is not ANY and expected != actual:
        raise Conflict(
            f"{alias!r} of {name!r} means {actual or 'nothing'}, not {expected or 'nothing'}: somebody else "
            "has changed it; look at the history, and decide again"
        )


def _check_room(name: str, share: float, others: dict[str, AliasRecord]) -> None:
    if PROD not in others:
        raise Conflict(f"{name!r} has no {PROD!r} yet that could share its traffic: point that first")
    taken = math.fsum(record.share for record in others.values() if record.share is not None)
    if taken + share > 1 - LEFT_FOR_PROD:
        raise Conflict(
            f"other aliases of {name!r} take {taken:g} of its traffic; with {share:g} more nothing would be "
            f"left for {PROD!r}: take a smaller share, or drop one of them"
        )


def _move(change: Change, action: Action, to: AliasRecord, before: AliasRecord | None) -> AliasRecord:
    if to == before:
        return to
    values = {"version": to.version, "share": to.share}
    if before is None:
        change.connection.execute(sa.insert(aliases).values(name=to.name, alias=to.alias, **values))
    else:
        change.connection.execute(sa.update(aliases).where(*_is(to)).values(values))
    before_target = None if before is None else before.target
    change.record(action, to.name, to.version, alias=to.alias, before=before_target, after=to.target)
    return to


def _remove(change: Change, action: Action, record: AliasRecord) -> None:
    change.connection.execute(sa.delete(aliases).where(*_is(record)))
    change.record(action, record.name, record.version, alias=record.alias, before=record.target)


def _is(record: AliasRecord) -> tuple[sa.ColumnElement[bool], ...]:
    return (aliases.c.name == record.name, aliases.c.alias == record.alias)
