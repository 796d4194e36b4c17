"""What a fleet serves at one moment: versions, aliases, the router over them. Immutable, so that a request
sees one state of the fleet from its decision to its last token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from adaptive_lora.adapters.records import PROD
from adaptive_lora.agents.names import Agent, Composition
from adaptive_lora.errors import UnknownAdapter
from adaptive_lora.types import AdapterVersion, RouteDecision, Standing

MAX_RESTRICTED = 256
"""Restricted views that one view keeps: sets of names that callers are allowed at the same time."""


class Routes(Protocol):
    """What a fleet needs of a router (`adaptive_lora.router.router.Router` is one). Immutable."""

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision: ...

    def standing(self, agent: str) -> Standing: ...

    def with_agent(self, agent: str, examples: Sequence[str], *, description: str = "") -> Self: ...

    def without_agent(self, agent: str) -> Self: ...


@dataclass(frozen=True, slots=True)
class Alias:
    """Where a name's alias points, and which share of the bare name's traffic it takes, 0..1."""

    version: str
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetView:
    """One state of the fleet."""

    versions: Mapping[str, AdapterVersion] = field(default_factory=dict)
    """Ready to answer, by id."""
    aliases: Mapping[str, Mapping[str, Alias]] = field(default_factory=dict)
    """By agent, then by alias. A target that is not ready is not in `versions`."""
    router: Routes | None = None
    pinned: frozenset[str] = frozenset()
    """Ids that never leave their slots."""
    compositions: Mapping[frozenset[str], Composition] = field(default_factory=dict)
    """Weighted sums that have beaten each of their agents alone, by those agents."""
    _restricted: dict[frozenset[str], FleetView] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def restricted_to(self, names: frozenset[str] | None) -> FleetView:
        """What a caller may use and know of, as if there were no other agents. None: all of it.

        Made once per set of names: a caller's next requests cost a look-up.
        """
        if names is None:
            return self
        view = self._restricted.get(names)
        if view is None:
            view = FleetView(
                {id_: version for id_, version in self.versions.items() if version.name in names},
                {name: aliases for name, aliases in self.aliases.items() if name in names},
                self.router,
                frozenset(id_ for id_ in self.pinned if id_.partition("@")[0] in names),
                {parts: each for parts, each in self.compositions.items() if parts <= names},
            )
            if len(self._restricted) >= MAX_RESTRICTED:
                self._restricted.clear()
            self._restricted[names] = view
        return view

    @property
    def candidates(self) -> tuple[str, ...]:
        """Agents that the router may choose, sorted: those whose bare name can answer."""
        ready = (name for name, known in self.aliases.items() if self._target(name, known.get(PROD)))
        return tuple(sorted(ready))

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of everything that is ready, sorted."""
        return tuple(sorted({version.name for version in self.versions.values()}))

    def standing(self, agent: str) -> Standing:
        """How `agent` takes part in routing."""
        if self.router is None:
            return Standing("explicit_only", "there is no router")
        return self.router.standing(agent)

    def resolve(self, name: Agent, key: str) -> tuple[AdapterVersion, str | None]:
        """The version that `name` means, and the alias that led to it; None if the version was named.

        A bare name is `prod`, or by its share another alias: `key` decides, the same key always the same way.
        Raises UnknownAdapter, and says what there is.
        """
        known = sorted(version.id for version in self.versions.values() if version.name == name.name)
        if not known:
            agents = ", ".join(self.agents) or "none"
            raise UnknownAdapter(f"there is no agent {name.name!r}; agents: {agents}; also 'auto' and 'base'")
        served = ", ".join(known)
        aliases = self.aliases.get(name.name, {})
        alias = self._drawn(name.name, aliases, key) if name.ref is None else name.ref
        if alias in aliases:
            if version := self._target(name.name, aliases[alias]):
                return version, alias
            target = aliases[alias].version
            raise UnknownAdapter(f"{name.name}@{alias} is {target}, which is not ready; served: {served}")
        if name.ref is None:
            raise UnknownAdapter(f"{name.name!r} has no version that is {PROD!r} yet; served: {served}")
        if not name.is_version:
            raise UnknownAdapter(f"{name.name!r} has no version or alias {name.ref!r}; served: {served}")
        matches = [each for each in known if each.partition("@")[2].startswith(name.ref)]
        if not matches:
            raise UnknownAdapter(f"{name.name!r} has no version {name.ref!r}; served: {served}")
        if len(matches) > 1:
            raise UnknownAdapter(f"{str(name)!r} fits several versions, use more digits; served: {served}")
        return self.versions[matches[0]], None

    def _target(self, name: str, alias: Alias | None) -> AdapterVersion | None:
        return None if alias is None else self.versions.get(f"{name}@{alias.version}")

    def _drawn(self, name: str, aliases: Mapping[str, Alias], key: str) -> str:
        """The alias that answers for the bare name this time. An alias that is not ready takes no share."""
        shared = [
            (alias, to.share) for alias, to in sorted(aliases.items()) if to.share and self._target(name, to)
        ]
        if shared:
            digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
            point = int.from_bytes(digest, "big") / 2**64
            for alias, share in shared:
                if point < share:
                    return alias
                point -= share
        return PROD
