"""What the registry promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adaptive_lora.adapters.records import ANY, NewVersion, Snapshot
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_checks import without_credentials
from adaptive_lora.errors import Conflict, InvalidRequest, UnknownAdapter
from adaptive_lora.types import AdapterVersion, Probe

from .registry_state import (
    BY,
    A,
    B,
    C,
    D,
    add,
    aliases_of,
    check_consistent,
    check_follows,
    new_version,
    prod,
    whole_history,
)


class TestVersions:
    def test_what_is_added_comes_back(self, registry: Registry, database_url: str) -> None:
        added = registry.add(new_version(), **BY)
        assert (added.id, added.loaded, added.pinned, added.retired) == (f"code@{A}", False, False, False)
        assert (added.forced, added.added_by, dict(added.reports)) == (False, "ann", {})
        assert abs(added.added_at - datetime.now(UTC)) < timedelta(minutes=1)
        again = Registry.open(database_url)
        assert again.snapshot().versions == (added,)
        again.close()

    def test_it_is_the_adapter_that_the_program_knows(self, registry: Registry) -> None:
        version = AdapterVersion(
            "code", A, Path("/files"), 16, "writes", ("one", "two"), 77, (Probe("2 + 2 =", "4"),)
        )
        new = NewVersion.of(version, "org/base", origin="folder", source="code")
        record = registry.add(new, **BY)
        assert record.as_version(Path("/files")) == version
        assert (record.base_model, record.origin, record.source) == ("org/base", "folder", "code")

    def test_adding_it_again_changes_nothing(self, registry: Registry) -> None:
        first = registry.add(new_version(), **BY)
        revision = registry.revision()
        assert registry.add(new_version(), who="bob", why="again") == first
        assert registry.revision() == revision
        assert [entry.action for entry in registry.history()] == ["add"]

    def test_what_is_said_of_it_can_change_and_what_it_is_cannot(self, registry: Registry) -> None:
        first = registry.add(new_version(), **BY)
        other = replace(
            new_version(),
            description="better",
            examples=("more",),
            probes=(),
            source="s3://bucket/code",
            rank=64,
            size_bytes=1,
        )
        said = {"description": "better", "examples": ("more",), "probes": (), "source": "s3://bucket/code"}
        assert registry.add(other, who="bob", why="better examples") == replace(first, **said)
        assert [entry.action for entry in registry.history()] == ["update", "add"]

    def test_force_is_kept_and_seen(self, registry: Registry) -> None:
        record = registry.add(new_version(refusal="no effect"), **BY)
        assert (record.forced, record.refusal) == (True, "no effect")
        assert registry.history()[0].after == "forced"
        assert not registry.add(new_version(), **BY).forced, "it has passed the checks now"
        assert (registry.history()[0].before, registry.history()[0].after) == ("forced", None)

    def test_a_source_keeps_no_credentials(self, registry: Registry) -> None:
        signed = "https://ann:s3cret@host/code.tar?X-Amz-Signature=s3cret#s3cret"
        assert registry.add(replace(new_version(), source=signed), **BY).source == "https://host/code.tar"

    def test_reports_are_kept_with_the_version(self, registry: Registry) -> None:
        add(registry, A, B)
        registry.report("code", A, "parity", {"max_error": 0.5}, who="ann")
        registry.report("code", A, "effect", {"difference": [1, 2.5, None], "text": "ü\u0000"}, who="ann")
        record = registry.report("code", A, "parity", {"max_error": 0.25}, who="bob")
        assert list(record.reports) == ["effect", "parity"]
        assert record.reports["effect"].content == {"difference": [1, 2.5, None], "text": "ü\u0000"}
        parity = record.reports["parity"]
        assert (parity.content, parity.by, parity.at.tzinfo) == ({"max_error": 0.25}, "bob", UTC)
        assert registry.snapshot().version("code", A) == record
        assert not registry.snapshot().version("code", B).reports
        assert [entry.after for entry in registry.history(limit=3)] == ["parity", "effect", "parity"]

    def test_a_report_is_json_of_some_length(self, registry: Registry) -> None:
        add(registry, A)
        for value in (float("nan"), object(), "y" * 1_000_001):
            with pytest.raises(InvalidRequest, match="a report"):
                registry.report("code", A, "effect", {"x": value}, who="ann")

    def test_declared_state_is_kept(self, registry: Registry, database_url: str) -> None:
        add(registry, A, B)
        registry.declare("code", A, loaded=True, pinned=True, **BY)
        registry.declare("code", B, loaded=True, **BY)
        registry.declare("code", B, loaded=False, **BY)
        revision = registry.revision()
        registry.declare("code", A, loaded=True, **BY)
        assert registry.revision() == revision, "it was loaded already"
        again = Registry.open(database_url)
        assert [(v.version, v.loaded, v.pinned) for v in again.snapshot().versions] == [
            (A, True, True),
            (B, False, False),
        ]
        again.close()
        assert [e.action for e in whole_history(registry)][2:] == ["load", "pin", "load", "unload"]

    def test_what_an_alias_points_to_stays(self, registry: Registry) -> None:
        add(registry, A, B)
        registry.declare("code", A, loaded=True, **BY)
        registry.point("code", "prod", A, **BY)
        registry.point("code", "beta", A, **BY)
        with pytest.raises(Conflict, match="'beta' and 'prod'"):
            registry.declare("code", A, loaded=False, **BY)
        with pytest.raises(Conflict, match="'beta' and 'prod'"):
            registry.retire("code", A, **BY)
        registry.drop("code", "beta", **BY)
        with pytest.raises(Conflict, match="'prod' of 'code' means"):
            registry.retire("code", A, **BY)
        registry.point("code", "prod", B, **BY)
        assert registry.retire("code", A, **BY).retired

    def test_a_retired_version_is_out_of_service_until_restored(self, registry: Registry) -> None:
        add(registry, A)
        registry.declare("code", A, loaded=True, pinned=True, **BY)
        retired = registry.retire("code", A, **BY)
        assert (retired.retired, retired.loaded, retired.pinned) == (True, False, False)
        assert registry.retire("code", A, **BY) == retired
        for change in (
            lambda: registry.declare("code", A, loaded=True, **BY),
            lambda: registry.declare("code", A, pinned=True, **BY),
            lambda: registry.point("code", "prod", A, **BY),
            lambda: registry.add(new_version(A), **BY),
        ):
            with pytest.raises(Conflict, match="restore it"):
                change()
        restored = registry.restore("code", A, **BY)
        assert (restored.retired, restored.loaded) == (False, False)
        assert registry.restore("code", A, **BY) == restored
        registry.point("code", "prod", A, **BY)
        check_consistent(registry)

    def test_only_what_is_retired_is_deleted_and_the_history_stays(self, registry: Registry) -> None:
        add(registry, A, B)
        registry.report("code", A, "effect", {"x": 1}, who="ann")
        with pytest.raises(Conflict, match="retire it first"):
            registry.delete("code", A, **BY)
        registry.retire("code", A, **BY)
        registry.delete("code", A, **BY)
        assert [record.version for record in registry.snapshot().versions] == [B]
        actions = [entry.action for entry in registry.history("code") if entry.version == A]
        assert actions == ["delete", "retire", "report", "add"]
        assert not registry.add(new_version(A), **BY).reports, "it begins anew"
        check_consistent(registry)

    def test_what_is_unknown_is_said(self, registry: Registry) -> None:
        add(registry, A)
        for change in (
            lambda: registry.report("code", B, "effect", {}, who="ann"),
            lambda: registry.declare("other", A, loaded=True, **BY),
            lambda: registry.retire("code", B, **BY),
            lambda: registry.restore("code", B, **BY),
            lambda: registry.delete("code", B, **BY),
            lambda: registry.point("code", "prod", B, **BY),
            lambda: registry.drop("code", "canary", **BY),
            lambda: registry.promote("code", **BY),
            lambda: registry.rollback("code", **BY),
            lambda: registry.snapshot().version("code", B),
            lambda: registry.snapshot().alias("code", "prod"),
        ):
            with pytest.raises(UnknownAdapter, match="first"):
                change()
        assert registry.revision() == 1


class TestAliases:
    def test_an_alias_moves(self, registry: Registry) -> None:
        add(registry, A, B)
        assert registry.point("code", "prod", A, **BY).target == A
        assert registry.point("code", "prod", B, **BY).target == B
        revision = registry.revision()
        registry.point("code", "prod", B, **BY)
        assert registry.revision() == revision, "it was there already"
        moves = [(e.before, e.after, e.who, e.why) for e in registry.history(limit=2)]
        assert moves == [(A, B, "ann", "because"), (None, A, "ann", "because")]

    def test_aliases_belong_to_a_name(self, registry: Registry) -> None:
        add(registry, A)
        add(registry, A, B, name="maths")
        registry.point("code", "prod", A, **BY)
        registry.point("maths", "prod", B, **BY)
        assert [(a.name, a.version) for a in registry.snapshot().aliases] == [("code", A), ("maths", B)]
        with pytest.raises(UnknownAdapter):
            registry.point("code", "prod", B, **BY)

    def test_shares_leave_something_for_prod(self, registry: Registry) -> None:
        add(registry, A, B)
        with pytest.raises(Conflict, match="has no 'prod' yet"):
            registry.point("code", "canary", B, share=0.2, **BY)
        registry.point("code", "prod", A, **BY)
        registry.point("code", "canary", B, share=0.2, **BY)
        registry.point("code", "beta", B, share=0.7, **BY)
        with pytest.raises(Conflict, match=r"take 0\.9 .* with 0\.1 more"):
            registry.point("code", "gamma", B, share=0.1, **BY)
        registry.point("code", "beta", B, share=0.75, **BY)
        registry.point("code", "gamma", B, share=0.04, **BY)
        assert aliases_of(registry) == {
            "beta": f"{B}:0.75",
            "canary": f"{B}:0.2",
            "gamma": f"{B}:0.04",
            "prod": A,
        }
        registry.point("code", "canary", B, **BY)
        assert registry.snapshot().alias("code", "canary").share is None
        check_consistent(registry)

    def test_compare_and_set(self, registry: Registry) -> None:
        add(registry, A, B)
        with pytest.raises(Conflict, match="means nothing, not"):
            registry.point("code", "prod", A, expected=B, **BY)
        registry.point("code", "prod", A, expected=None, **BY)
        with pytest.raises(Conflict, match=f"means {A}, not nothing"):
            registry.point("code", "prod", B, expected=None, **BY)
        registry.point("code", "prod", B, expected=A, **BY)
        registry.point("code", "prod", A, expected=ANY, **BY)
        with pytest.raises(Conflict, match=f"means {A}, not {B}"):
            registry.drop("code", "prod", expected=B, **BY)
        with pytest.raises(Conflict, match=f"means {A}, not {B}"):
            registry.rollback("code", expected=B, **BY)
        registry.point("code", "canary", B, share=0.5, **BY)
        with pytest.raises(Conflict, match=f"'canary' of 'code' means {B}, not {A}"):
            registry.promote("code", expected=A, **BY)
        registry.promote("code", expected=B, **BY)
        registry.drop("code", "prod", expected=B, **BY)
        assert aliases_of(registry) == {}
        check_consistent(registry)

    def test_promote_is_one_change(self, registry: Registry) -> None:
        add(registry, A, B, C)
        registry.point("code", "prod", A, **BY)
        registry.point("code", "canary", B, share=0.2, **BY)
        registry.point("code", "beta", C, share=0.1, **BY)
        revision = registry.revision()
        assert registry.promote("code", **BY).target == B
        assert registry.revision() == revision + 1
        assert aliases_of(registry) == {"prod": B, "beta": f"{C}:0.1"}
        dropped, moved = registry.history(limit=2)
        assert (moved.alias, moved.before, moved.after) == ("prod", A, B)
        assert (dropped.alias, dropped.before, dropped.after) == ("canary", f"{B}:0.2", None)
        assert {dropped.action, moved.action} == {"promote"}
        registry.promote("code", alias="beta", **BY)
        assert aliases_of(registry) == {"prod": C}
        with pytest.raises(InvalidRequest, match="promoted to"):
            registry.promote("code", alias="prod", **BY)

    def test_the_first_promotion_makes_prod(self, registry: Registry) -> None:
        add(registry, A)
        registry.point("code", "canary", A, **BY)
        registry.promote("code", **BY)
        assert aliases_of(registry) == {"prod": A}


class TestRollback:
    @pytest.fixture
    def released(self, registry: Registry) -> Registry:
        """A, then B, then C."""
        add(registry, A, B, C, D)
        for version in (A, B, C):
            registry.point("code", "prod", version, **BY)
        return registry

    def test_it_goes_back_and_never_to_and_fro(self, released: Registry) -> None:
        assert released.rollback("code", **BY).version == B
        assert released.rollback("code", **BY).version == A
        with pytest.raises(Conflict, match="no version before"):
            released.rollback("code", **BY)
        assert prod(released).version == A
        entry = released.history(limit=1)[0]
        assert (entry.action, entry.alias, entry.before, entry.after) == ("rollback", "prod", B, A)

    def test_after_a_new_release_it_goes_back_to_what_that_replaced(self, released: Registry) -> None:
        released.rollback("code", **BY)
        released.point("code", "prod", D, **BY)
        assert released.rollback("code", **BY).version == B

    def test_to_a_named_version(self, released: Registry) -> None:
        assert released.rollback("code", to=A, **BY).version == A
        assert released.rollback("code", to=D, **BY).version == D, "also one that was never prod"
        with pytest.raises(UnknownAdapter):
            released.rollback("code", to="eeeeeeeeeee5", **BY)
        released.retire("code", B, **BY)
        with pytest.raises(Conflict, match="restore it first"):
            released.rollback("code", to=B, **BY)

    def test_what_cannot_be_served_is_skipped(self, released: Registry) -> None:
        released.retire("code", B, **BY)
        assert released.rollback("code", **BY).version == A
        released.point("code", "prod", C, **BY)
        released.delete("code", B, **BY)
        released.rollback("code", **BY)
        assert prod(released).version == A

    def test_while_a_canary_runs_it_ends_that(self, released: Registry) -> None:
        released.point("code", "canary", D, share=0.2, **BY)
        released.point("code", "beta", B, share=0.1, **BY)
        revision = released.revision()
        assert released.rollback("code", **BY).version == C, "prod stays"
        assert released.revision() == revision + 1
        assert aliases_of(released) == {"prod": C, "canary": D, "beta": B}, "to be asked for by name still"
        assert released.rollback("code", **BY).version == B, "now prod goes back"

    def test_to_a_named_version_ends_the_canary_too(self, released: Registry) -> None:
        released.point("code", "canary", D, share=0.2, **BY)
        released.rollback("code", to=A, **BY)
        assert aliases_of(released) == {"prod": A, "canary": D}
        check_consistent(released)


class TestHistory:
    def test_newest_first_in_pages(self, registry: Registry) -> None:
        add(registry, A, B)
        add(registry, A, name="maths")
        registry.point("code", "prod", A, **BY)
        assert [entry.id for entry in registry.history()] == [4, 3, 2, 1]
        assert [entry.id for entry in registry.history("code")] == [4, 2, 1]
        assert [entry.id for entry in registry.history("code", limit=1, before_id=4)] == [2]
        assert registry.history("unknown") == ()
        assert [entry.id for entry in whole_history(registry, page=3)] == [1, 2, 3, 4]
        for limit in (0, 1_001):
            with pytest.raises(InvalidRequest, match="limit"):
                registry.history(limit=limit)

    def test_who_when_what_why(self, registry: Registry) -> None:
        registry.add(new_version(), who="ann@example.com", why="a first try\nof ours")
        (entry,) = registry.history()
        assert (entry.who, entry.why) == ("ann@example.com", "a first try\nof ours")
        assert (entry.action, entry.name, entry.version, entry.revision) == ("add", "code", A, 1)
        assert entry.at.tzinfo is UTC
        assert abs(entry.at - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_refused_change_leaves_no_trace(self, registry: Registry) -> None:
        add(registry, A)
        registry.point("code", "prod", A, **BY)
        registry.declare("code", A, loaded=True, **BY)
        before = (registry.snapshot(), registry.history())
        with pytest.raises(Conflict):
            registry.declare("code", A, pinned=True, loaded=False, **BY)
        with pytest.raises(Conflict):
            registry.retire("code", A, **BY)
        assert (registry.snapshot(), registry.history()) == before


class TestCompositions:
    def test_what_was_compared_is_kept(self, registry: Registry) -> None:
        spec, agents = "code:0.7+maths:0.3", ("code", f"maths@{A}")
        registry.evaluate_composition(spec, agents, {"won": 3}, approved=False, who="ann")
        record = registry.evaluate_composition(
            spec, agents, {"won": 9}, approved=True, who="bob", why="better"
        )
        assert registry.snapshot().compositions == (record,)
        assert (record.agents, record.approved) == (agents, True)
        assert (record.report.content, record.report.by) == ({"won": 9}, "bob")
        entry = registry.history(spec)[0]
        assert (entry.action, entry.before, entry.after) == ("evaluate", "not approved", "approved")
        check_consistent(registry)

    def test_its_agents_are_names_or_ids(self, registry: Registry) -> None:
        for agent in ("auto", "code@prod", "Code", ""):
            with pytest.raises(InvalidRequest):
                registry.evaluate_composition("code:1", (agent,), {}, approved=True, who="ann")


class TestWords:
    def test_names(self, registry: Registry) -> None:
        for name in ("", "Code", "-code", "a" * 64, "a/b", "auto", "base", "composition"):
            with pytest.raises(InvalidRequest):
                registry.add(new_version(name=name), **BY)

    def test_versions(self, registry: Registry) -> None:
        for version in ("", "A" * 12, "a" * 11, "a" * 13, "g" * 12):
            with pytest.raises(InvalidRequest, match="12 hexadecimal digits"):
                registry.add(new_version(version), **BY)

    def test_an_alias_is_no_versions_beginning(self, registry: Registry) -> None:
        add(registry, A)
        for alias in ("", "Prod", "a b", "x" * 64, "cafe", "0123", A):
            with pytest.raises(InvalidRequest, match="alias"):
                registry.point("code", alias, A, **BY)
        for alias in ("prod", "caf", "cafe-1", "facade-of-the-new", "0", "a" * 13):
            assert registry.point("code", alias, A, **BY).alias == alias

    def test_a_share_is_between_0_and_1(self, registry: Registry) -> None:
        for share in (0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")):
            with pytest.raises(InvalidRequest, match="above 0 and below 1"):
                registry.point("code", "canary", A, share=share, **BY)
        with pytest.raises(InvalidRequest, match="what the others leave"):
            registry.point("code", "prod", A, share=0.5, **BY)

    def test_who_and_why(self, registry: Registry) -> None:
        for who in ("", " ", "a" * 65, "a\nb", "a\u2028b"):
            with pytest.raises(InvalidRequest, match="who"):
                registry.add(new_version(), who=who, why="x")
        for why in ("x" * 501, "\0", "\ud800"):
            with pytest.raises(InvalidRequest, match="why"):
                registry.add(new_version(), who="ann", why=why)
        assert registry.revision() == 0

    def test_texts(self, registry: Registry) -> None:
        for field in ("description", "source", "base_model", "refusal"):
            for text in ("nul \0", "x" * 20_001):
                with pytest.raises(InvalidRequest):
                    registry.add(replace(new_version(), **{field: text}), **BY)


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("/srv/adapters/code", "/srv/adapters/code"),
        ("upload code.tar.gz", "upload code.tar.gz"),
        ("hf://org/code@main", "hf://org/code@main"),
        ("s3://bucket/path/code", "s3://bucket/path/code"),
        ("s3://key:s3cret@bucket/code", "s3://bucket/code"),
        (
            "az://container@account.dfs.core.windows.net/code",
            "az://container@account.dfs.core.windows.net/code",
        ),
        ("az://container/code?sig=s3cret", "az://container/code"),
        ("https://s3cret@host:8443/code", "https://host:8443/code"),
    ],
)
def test_sources_without_credentials(source: str, kept: str) -> None:
    assert without_credentials(source) == kept


def test_each_snapshot_is_of_one_moment(registry: Registry) -> None:
    """Threads share one registry; what they read meanwhile follows from the history up to its revision."""
    names = ("code", "maths", "poems")
    is_over = threading.Event()

    def write(name: str) -> None:
        add(registry, A, B, C, name=name)
        registry.point(name, "prod", A, **BY)
        for round_ in range(8):
            registry.point(name, "canary", (B, C)[round_ % 2], share=0.5, **BY)
            registry.promote(name, **BY)
            registry.rollback(name, to=A, **BY)
            registry.retire(name, B, **BY)
            registry.restore(name, B, **BY)

    def read() -> list[Snapshot]:
        snapshots = []
        while not is_over.is_set():
            snapshots.append(registry.snapshot())
        return snapshots

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for writer in [pool.submit(write, name) for name in names]:
                writer.result()
        finally:
            is_over.set()
        snapshots = [snapshot for reader in readers for snapshot in reader.result()]
    entries = whole_history(registry)
    assert registry.revision() == 3 * (3 + 1 + 8 * 5)
    assert len({snapshot.revision for snapshot in snapshots}) > 10
    for snapshot in {snapshot.revision: snapshot for snapshot in snapshots}.values():
        check_follows(snapshot, [entry for entry in entries if entry.revision <= snapshot.revision])
