"""Any sequence of changes, against a model of what they mean that is no database."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adaptive_lora.adapters.records import ANY, PROD, Expected
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.errors import Conflict, UnknownAdapter

from .registry_state import BY, A, B, C, D, check_consistent, new_version

VERSIONS = st.sampled_from([A, B, C, D])
ALIASES = st.sampled_from([PROD, "canary", "beta"])
SHARES = st.sampled_from([None, None, 0.2, 0.5, 0.8])
EXPECTED: st.SearchStrategy[Expected] = st.sampled_from([ANY] * 12 + [None, A, B, C])

Outcome = type[Exception] | None


class Rollouts(RuleBasedStateMachine):
    """One name, its versions and aliases. Each example has a name of its own in the same database."""

    numbers = itertools.count()

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.registry = registry
        self.name = f"name-{next(self.numbers)}"
        self.versions: dict[str, set[str]] = {}
        self.aliases: dict[str, tuple[str, float | None]] = {}
        self.prods: list[str] = []

    def make(self, change: Callable[[], object], expected: Outcome) -> bool:
        """Whether the change was made, as the model has said."""
        outcome: Outcome = None
        try:
            change()
        except (Conflict, UnknownAdapter) as error:
            outcome = type(error)
        assert outcome is expected
        return outcome is None

    @initialize(first=VERSIONS)
    def begin(self, first: str) -> None:
        for version in (A, B, C, D):
            self.add(version=version)
        self.point(alias=PROD, version=first, share=None, expected=None)

    @rule(version=VERSIONS)
    def add(self, version: str) -> None:
        outcome: Outcome = Conflict if "retired" in self.versions.get(version, ()) else None
        if self.make(lambda: self.registry.add(new_version(version, name=self.name), **BY), outcome):
            self.versions.setdefault(version, set())

    @rule(version=VERSIONS, loaded=st.sampled_from([None, True, False]), pinned=st.booleans())
    def declare(self, version: str, loaded: bool | None, pinned: bool) -> None:
        state = self.versions.get(version)
        outcome: Outcome = None
        if state is None:
            outcome = UnknownAdapter
        elif ("retired" in state and (loaded or pinned)) or (loaded is False and self.is_used(version)):
            outcome = Conflict
        declare = self.registry.declare
        if self.make(lambda: declare(self.name, version, loaded=loaded, pinned=pinned, **BY), outcome):
            for word, value in (("loaded", loaded), ("pinned", pinned)):
                if value is not None:
                    (self.versions[version].add if value else self.versions[version].discard)(word)

    @rule(version=VERSIONS)
    def retire(self, version: str) -> None:
        outcome: Outcome = Conflict if self.is_used(version) else None
        if version not in self.versions:
            outcome = UnknownAdapter
        if self.make(lambda: self.registry.retire(self.name, version, **BY), outcome):
            self.versions[version] = {"retired"}

    @rule(version=VERSIONS)
    def restore(self, version: str) -> None:
        outcome: Outcome = None if version in self.versions else UnknownAdapter
        if self.make(lambda: self.registry.restore(self.name, version, **BY), outcome):
            self.versions[version].discard("retired")

    @precondition(lambda self: any("retired" in state for state in self.versions.values()))
    @rule(version=VERSIONS)
    def delete(self, version: str) -> None:
        outcome: Outcome = None if "retired" in self.versions.get(version, ()) else Conflict
        if version not in self.versions:
            outcome = UnknownAdapter
        if self.make(lambda: self.registry.delete(self.name, version, **BY), outcome):
            del self.versions[version]

    @rule(version=VERSIONS)
    def release(self, version: str) -> None:
        self.point(alias=PROD, version=version, share=None, expected=ANY)

    @rule(alias=ALIASES, version=VERSIONS, share=SHARES, expected=EXPECTED)
    def point(self, alias: str, version: str, share: float | None, expected: Expected) -> None:
        if alias == PROD:
            share = None
        others = [other for name, (_, other) in self.aliases.items() if name != alias and other]
        outcome: Outcome = None
        if version not in self.versions:
            outcome = UnknownAdapter
        elif (
            "retired" in self.versions[version]
            or not self.meets(alias, expected)
            or (share and PROD not in self.aliases)
            or (share and sum(Fraction(str(each)) for each in [*others, share]) >= 1)
        ):
            outcome = Conflict
        point = self.registry.point
        if self.make(lambda: point(self.name, alias, version, share=share, expected=expected, **BY), outcome):
            self.move(alias, version, share)

    @rule(alias=st.sampled_from(["canary", "beta", "canary", "beta", PROD]), expected=EXPECTED)
    def drop(self, alias: str, expected: Expected) -> None:
        outcome = self.outcome_for(alias, expected)
        if self.make(lambda: self.registry.drop(self.name, alias, expected=expected, **BY), outcome):
            del self.aliases[alias]

    @precondition(lambda self: len(self.aliases) > 1)
    @rule(alias=st.sampled_from(["canary", "beta"]), expected=EXPECTED)
    def promote(self, alias: str, expected: Expected) -> None:
        outcome = self.outcome_for(alias, expected)
        promote = self.registry.promote
        if self.make(lambda: promote(self.name, alias=alias, expected=expected, **BY), outcome):
            self.move(PROD, self.aliases.pop(alias)[0], None)

    @rule(to=st.sampled_from([None] * 8 + [A, B, C, D]), expected=EXPECTED)
    def rollback(self, to: str | None, expected: Expected) -> None:
        outcome = self.outcome_for(PROD, expected)
        target = to
        sharing = [alias for alias, (_, share) in self.aliases.items() if share]
        if outcome is None:
            now = self.aliases[PROD][0]
            if to is not None:
                if to not in self.versions:
                    outcome = UnknownAdapter
                elif "retired" in self.versions[to]:
                    outcome = Conflict
            elif sharing:
                target = now
            else:
                earlier = self.prods[: self.prods.index(now)]
                usable = [v for v in earlier if "retired" not in self.versions.get(v, {"retired"})]
                target = usable[-1] if usable else None
                outcome = None if usable else Conflict
        rollback = self.registry.rollback
        if self.make(lambda: rollback(self.name, to=to, expected=expected, **BY), outcome):
            assert target is not None
            for alias in sharing:
                self.move(alias, self.aliases[alias][0], None)
            self.move(PROD, target, None)

    @invariant()
    def the_registry_is_as_the_model(self) -> None:
        snapshot = self.registry.snapshot()
        versions = {
            record.version: {word for word in ("loaded", "pinned", "retired") if getattr(record, word)}
            for record in snapshot.versions_of(self.name)
        }
        assert versions == self.versions
        aliases = {record.alias: (record.version, record.share) for record in snapshot.aliases_of(self.name)}
        assert aliases == self.aliases

    def is_used(self, version: str) -> bool:
        return version in {target for target, _ in self.aliases.values()}

    def meets(self, alias: str, expected: Expected) -> bool:
        return expected is ANY or expected == self.aliases.get(alias, (None,))[0]

    def outcome_for(self, alias: str, expected: Expected) -> Outcome:
        if alias not in self.aliases:
            return UnknownAdapter
        return None if self.meets(alias, expected) else Conflict

    def move(self, alias: str, version: str, share: float | None) -> None:
        if self.aliases.get(alias) == (version, share):
            return
        self.aliases[alias] = (version, share)
        if alias == PROD:
            self.prods.append(version)


def test_any_sequence_of_changes(registry: Registry) -> None:
    run_state_machine_as_test(
        lambda: Rollouts(registry), settings=settings(max_examples=25, stateful_step_count=40)
    )
    check_consistent(registry)
