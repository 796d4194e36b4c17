"""Leases, the checkpoint, and the end of a batch: in both kinds of database."""

from __future__ import annotations

import threading

import pytest

from adaptive_lora.batches import batch_store
from adaptive_lora.batches.records import Batch, Result
from adaptive_lora.batches.run_store import LeaseLost
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded, RegistryUnavailable
from tests.batches.conftest import NOW, batch_of, file_of, kept, later


def added(stores: Stores, tenant: str = "acme") -> Batch:
    return stores.batches.add(batch_of(kept(stores, tenant)), now=NOW, max_unfinished=20)


def claimed(stores: Stores, holder: str = "a") -> Batch:
    batch = stores.runs.claim(added(stores).id, holder, now=NOW, until=later(seconds=30))
    assert batch is not None
    return batch


def test_a_batch_belongs_to_its_tenant(stores: Stores) -> None:
    batch = added(stores)
    assert stores.batches.get("acme", batch.id) == batch
    assert stores.batches.list("acme", limit=5).items == (batch,)
    assert stores.batches.list("other", limit=5).items == ()
    with pytest.raises(NotFound):
        stores.batches.get("other", batch.id)
    with pytest.raises(NotFound):
        stores.batches.cancel("other", batch.id, now=NOW)
    with pytest.raises(InvalidRequest, match="after"):
        stores.batches.list("other", limit=5, after=batch.id)


def test_its_input_is_a_file_of_its_tenants_for_batches(stores: Stores) -> None:
    theirs, output, draft = kept(stores, "other"), kept(stores, purpose="batch_output"), file_of()
    stores.files.draft(draft)
    for file in (theirs, output, draft):
        new = batch_of(file_of())
        with pytest.raises(InvalidRequest, match="input_file_id"):
            stores.batches.add(
                type(new)("acme", {}, new.endpoint, file.id, new.expires_at), now=NOW, max_unfinished=10
            )


def test_only_so_many_may_wait(stores: Stores) -> None:
    file = kept(stores)
    first = stores.batches.add(batch_of(file), now=NOW, max_unfinished=1)
    with pytest.raises(QuotaExceeded, match="max_unfinished"):
        stores.batches.add(batch_of(file), now=NOW, max_unfinished=1)
    stores.runs.claim(first.id, "a", now=NOW, until=NOW)
    stores.runs.end(first.id, "a", "failed", now=NOW, n_requests=0, n_failed=0)
    stores.batches.add(batch_of(file), now=NOW, max_unfinished=1)


def test_the_oldest_that_have_ended_make_room(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "MAX_BATCHES", 3)
    file, theirs = kept(stores), added(stores, "other")
    added_ = [stores.batches.add(batch_of(file), now=later(seconds=i), max_unfinished=9) for i in range(3)]
    for batch in added_[1:]:
        stores.runs.claim(batch.id, "a", now=NOW, until=NOW)
        stores.runs.end(batch.id, "a", "cancelled", now=NOW, n_requests=0, n_failed=0)
    fourth = stores.batches.add(batch_of(file), now=later(seconds=3), max_unfinished=9)
    left = [batch.id for batch in stores.batches.list("acme", limit=9).items]
    assert left == [fourth.id, added_[2].id, added_[0].id], "what has not ended stays"
    assert stores.batches.get("other", theirs.id) == theirs


def test_one_of_many_gateways_claims_a_batch(stores: Stores) -> None:
    batch = added(stores)
    winners: list[str] = []
    barrier = threading.Barrier(5)

    def claim(holder: str) -> None:
        barrier.wait()
        try:
            if stores.runs.claim(batch.id, holder, now=NOW, until=later(seconds=30)) is not None:
                winners.append(holder)
        except RegistryUnavailable:
            pass  # it did not come to its turn

    threads = [threading.Thread(target=claim, args=(f"{i}",)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    stores.runs.hold(batch.id, winners[0], until=later(seconds=60))


def test_who_gives_no_sign_of_life_loses_its_batch_and_writes_nothing_more(stores: Stores) -> None:
    batch = claimed(stores, "a")
    stores.runs.advance(batch.id, "a", "validating", "in_progress", now=NOW, n_requests=3)
    stores.runs.record(batch.id, "a", [Result(0, "0", n_input_tokens=2, n_output_tokens=5)])
    assert stores.runs.claim(batch.id, "b", now=later(seconds=29), until=later(seconds=60)) is None
    taken = stores.runs.claim(batch.id, "b", now=later(seconds=31), until=later(seconds=60))
    assert taken is not None
    assert (taken.status, taken.n_completed, stores.runs.done(batch.id)) == ("in_progress", 1, {0})
    with pytest.raises(LeaseLost):
        stores.runs.record(batch.id, "a", [Result(1, "from a")])
    with pytest.raises(LeaseLost):
        stores.runs.hold(batch.id, "a", until=later(seconds=90))
    with pytest.raises(LeaseLost):
        stores.runs.advance(batch.id, "a", "in_progress", "finalizing", now=NOW, n_requests=3)
    with pytest.raises(LeaseLost):
        stores.runs.end(batch.id, "a", "completed", now=NOW, n_requests=3, n_failed=0)
    stores.runs.release(batch.id, "a")
    stores.runs.record(batch.id, "b", [Result(1, "from b"), Result(2, "2", is_error=True)])
    assert list(stores.runs.results(batch.id, is_error=False)) == [(0, "0"), (1, "from b")]
    assert list(stores.runs.results(batch.id, is_error=True)) == [(2, "2")]
    now = stores.batches.get("acme", batch.id)
    assert (now.n_completed, now.n_failed, now.n_input_tokens, now.n_output_tokens) == (2, 1, 2, 5)


def test_what_is_let_go_of_may_be_claimed_at_once(stores: Stores) -> None:
    batch = claimed(stores, "a")
    assert stores.runs.candidates(now=NOW) == ()
    stores.runs.release(batch.id, "a")
    assert [each.id for each in stores.runs.candidates(now=NOW)] == [batch.id]


def test_an_answer_is_recorded_once(stores: Stores) -> None:
    """The whole write fails, counts included: the key is the line's."""
    batch = claimed(stores)
    stores.runs.record(batch.id, "a", [Result(0, "first")])
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        stores.runs.record(batch.id, "a", [Result(1, "1"), Result(0, "again")])
    assert list(stores.runs.results(batch.id, is_error=False)) == [(0, "first")]
    assert stores.batches.get("acme", batch.id).n_completed == 1


def test_the_end_shows_the_files_and_clears_the_checkpoint(stores: Stores) -> None:
    batch = claimed(stores)
    stores.runs.record(batch.id, "a", [Result(0, "0")])
    output = file_of(purpose="batch_output")
    stores.files.draft(output)
    stores.runs.end(batch.id, "a", "expired", now=later(hours=1), n_requests=5, n_failed=4, output=output)
    ended = stores.batches.get("acme", batch.id)
    assert (ended.status, ended.output_file_id, ended.error_file_id) == ("expired", output.id, None)
    assert (ended.n_completed, ended.n_failed, ended.ended_at) == (1, 4, later(hours=1))
    assert stores.files.get("acme", output.id, now=NOW) == output
    assert stores.runs.done(batch.id) == frozenset()
    assert stores.runs.candidates(now=later(days=9)) == ()
    with pytest.raises(Conflict, match="expired"):
        stores.batches.cancel("acme", batch.id, now=NOW)
    assert stores.batches.forget_ended(before=later(minutes=59)) == 0
    assert stores.batches.forget_ended(before=later(minutes=61)) == 1


def test_a_wish_to_cancel_is_not_overwritten(stores: Stores) -> None:
    batch = claimed(stores)
    assert stores.batches.cancel("acme", batch.id, now=NOW).status == "cancelling"
    after = stores.runs.advance(batch.id, "a", "validating", "in_progress", now=NOW, n_requests=3)
    assert (after.status, after.in_progress_at) == ("cancelling", None)
    assert stores.batches.cancel("acme", batch.id, now=later(hours=1)).cancelling_at == NOW


def test_candidates_are_fair_to_tenants_and_end_what_only_has_to_be_ended(stores: Stores) -> None:
    mine = [added(stores) for _ in range(12)]
    theirs = added(stores, "other")
    found = [batch.id for batch in stores.runs.candidates(now=NOW)]
    assert theirs.id in found
    assert len(found) < 13
    stores.batches.cancel("acme", mine[0].id, now=NOW)
    beside = [batch.id for batch in stores.runs.candidates(now=NOW, beside=["acme"])]
    assert set(beside) == {theirs.id, mine[0].id}
    past = stores.runs.candidates(now=later(days=2), beside=["acme", "other"])
    assert theirs.id in {batch.id for batch in past}


def test_results_are_read_page_by_page(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptive_lora.batches.run_store.PAGE", 2)
    batch = claimed(stores)
    stores.runs.record(batch.id, "a", [Result(i, f"{i}") for i in (4, 1, 3, 0, 2)])
    assert list(stores.runs.results(batch.id, is_error=False)) == [(i, f"{i}") for i in range(5)]
