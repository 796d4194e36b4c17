"""What names mean in one state of the fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adaptive_lora.agents.names import Agent, Composition
from adaptive_lora.agents.view import MAX_RESTRICTED, Alias, FleetView
from adaptive_lora.errors import UnknownAdapter
from tests.agents.conftest import version_of

OLD, NEW, OTHER = (
    version_of("code", "3f9c2a000001"),
    version_of("code", "3f9c2b000002"),
    version_of("creative", "aaaa00000003"),
)


def view_of(**code: Alias) -> FleetView:
    versions = {version.id: version for version in (OLD, NEW, OTHER)}
    return FleetView(versions, {"code": code, "creative": {"prod": Alias(OTHER.version)}})


def test_a_bare_name_is_prod() -> None:
    view = view_of(prod=Alias(OLD.version), blue=Alias(NEW.version))
    assert view.resolve(Agent("code"), "any key") == (OLD, "prod")
    assert view.resolve(Agent("code", "blue"), "any key") == (NEW, "blue")
    assert view.resolve(Agent("code", "3f9c2b"), "any key") == (NEW, None)
    assert view.candidates == ("code", "creative")


def test_an_alias_that_looks_like_a_version_is_an_alias() -> None:
    view = view_of(prod=Alias(OLD.version), beef=Alias(NEW.version))
    assert view.resolve(Agent("code", "beef"), "") == (NEW, "beef")


def test_a_share_of_the_traffic_goes_to_the_canary() -> None:
    view = view_of(prod=Alias(OLD.version), canary=Alias(NEW.version, 0.2))
    keys = [f"req-{i}" for i in range(10_000)]
    drawn = [view.resolve(Agent("code"), key) for key in keys]
    n_canary = sum(alias == "canary" for _, alias in drawn)
    # Binomial: four standard deviations, 4 * sqrt(10000 * 0.2 * 0.8) = 160.
    assert abs(n_canary - 2_000) < 160
    assert all(version == (NEW if alias == "canary" else OLD) for version, alias in drawn)
    assert drawn == [view.resolve(Agent("code"), key) for key in keys], "the same key, the same way"


def test_shares_of_several_aliases_add_up() -> None:
    view = view_of(prod=Alias(OLD.version), a=Alias(NEW.version, 0.5), b=Alias(OLD.version, 0.25))
    drawn = [view.resolve(Agent("code"), str(i))[1] for i in range(10_000)]
    assert abs(drawn.count("a") - 5_000) < 200
    assert abs(drawn.count("b") - 2_500) < 175
    assert abs(drawn.count("prod") - 2_500) < 175


def test_agents_are_drawn_for_independently() -> None:
    """A caller whose request meets one agent's canary does not meet every agent's."""
    shared = {"prod": Alias(OLD.version), "canary": Alias(NEW.version, 0.5)}
    twin = version_of("twin", NEW.version)
    versions = {v.id: v for v in (OLD, NEW, twin, version_of("twin", OLD.version))}
    view = FleetView(versions, {"code": shared, "twin": shared})
    both = [
        (view.resolve(Agent("code"), str(i))[1], view.resolve(Agent("twin"), str(i))[1]) for i in range(1_000)
    ]
    assert len(set(both)) == 4


def test_a_canary_that_is_not_ready_takes_no_share() -> None:
    view = view_of(prod=Alias(OLD.version), canary=Alias("ffffffffffff", 0.9))
    assert {view.resolve(Agent("code"), str(i))[1] for i in range(100)} == {"prod"}
    with pytest.raises(UnknownAdapter, match="not ready"):
        view.resolve(Agent("code", "canary"), "")


def test_an_agent_without_prod_answers_by_version_only() -> None:
    view = view_of(canary=Alias(NEW.version))
    with pytest.raises(UnknownAdapter, match="no version that is 'prod' yet"):
        view.resolve(Agent("code"), "")
    assert view.resolve(Agent("code", "canary"), "") == (NEW, "canary")
    assert view.candidates == ("creative",)


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        (Agent("law"), "code, creative"),
        (Agent("code", "blue"), "code@3f9c2a000001"),
        (Agent("code", "ffff"), "code@3f9c2b000002"),
        (Agent("code", "3f9c"), "more digits"),
    ],
)
def test_an_unknown_name_says_what_there_is(name: Agent, tells: str) -> None:
    with pytest.raises(UnknownAdapter, match=tells):
        view_of(prod=Alias(OLD.version)).resolve(name, "")


COMPOSED = Composition(((Agent("code"), 0.5), (Agent("creative"), 0.5)))


def whole() -> FleetView:
    view = view_of(prod=Alias(OLD.version), canary=Alias(NEW.version, 0.2))
    pair = frozenset({"code", "creative"})
    return replace(view, pinned=frozenset({OLD.id, OTHER.id}), compositions={pair: COMPOSED})


def test_a_restricted_view_is_a_fleet_without_the_others() -> None:
    view = whole().restricted_to(frozenset({"creative", "absent"}))
    assert view.versions == {OTHER.id: OTHER}
    assert (view.candidates, view.agents, view.pinned) == (("creative",), ("creative",), {OTHER.id})
    assert (view.compositions, dict(view.aliases)) == ({}, {"creative": {"prod": Alias(OTHER.version)}})
    with pytest.raises(UnknownAdapter) as caught:
        view.resolve(Agent("code"), "")
    assert caught.value.message == "there is no agent 'code'; agents: creative; also 'auto' and 'base'"


def test_a_composition_needs_all_of_its_agents() -> None:
    view = whole()
    assert view.restricted_to(frozenset({"code", "creative"})).compositions == view.compositions
    assert view.restricted_to(frozenset({"code"})).compositions == {}
    assert view.restricted_to(frozenset()).versions == {}


def test_a_restricted_view_is_made_once_and_not_kept_for_another_fleet() -> None:
    view = whole()
    assert view.restricted_to(None) is view
    code = view.restricted_to(frozenset({"code"}))
    assert view.restricted_to(frozenset({"code"})) is code
    later = replace(view, versions={})
    assert later.restricted_to(frozenset({"code"})).versions == {}


def test_kept_views_are_bounded() -> None:
    view = whole()
    for i in range(3 * MAX_RESTRICTED):
        view.restricted_to(frozenset({str(i)}))
    assert len(view._restricted) <= MAX_RESTRICTED
