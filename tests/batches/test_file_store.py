"""Records of files: who sees them, how long, and how many there may be."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from adaptive_lora.batches import file_store
from adaptive_lora.batches.file_store import DRAFT_GRACE
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import AdaptiveLoraError, Conflict, InvalidRequest, NotFound, QuotaExceeded
from tests.batches.conftest import DAY, NOW, batch_of, file_of, kept, later


def test_a_file_is_seen_by_its_tenant_until_it_expires(stores: Stores) -> None:
    file = file_of()
    stores.files.draft(file)
    with pytest.raises(NotFound):
        stores.files.get("acme", file.id, now=NOW)
    stores.files.publish(file)
    assert stores.files.get("acme", file.id, now=NOW) == file
    for tenant, now in (("other", NOW), ("acme", file.expires_at)):
        with pytest.raises(NotFound):
            stores.files.get(tenant, file.id, now=now)
        assert stores.files.list(tenant, now=now, limit=10).items == ()


@pytest.mark.parametrize("oldest_first", [False, True])
def test_pages_show_each_file_once_in_its_order(stores: Stores, oldest_first: bool) -> None:
    files = [kept(stores, at=later(seconds=i // 2)) for i in range(7)]  # two share each moment
    kept(stores, "other")
    found: list[str] = []
    after = None
    while True:
        page = stores.files.list("acme", now=NOW, limit=3, after=after, oldest_first=oldest_first)
        found += [file.id for file in page.items]
        if not page.has_more:
            break
        after = found[-1]
    expected = sorted(files, key=lambda file: (file.created_at, file.id), reverse=not oldest_first)
    assert found == [file.id for file in expected]


def test_a_cursor_is_one_of_the_tenants_own(stores: Stores) -> None:
    theirs = kept(stores, "other")
    for after in (theirs.id, "file-" + "0" * 32):
        with pytest.raises(InvalidRequest, match="after"):
            stores.files.list("acme", now=NOW, limit=3, after=after)


def test_a_purpose_selects(stores: Stores) -> None:
    kept(stores)
    output = kept(stores, purpose="batch_output")
    page = stores.files.list("acme", now=NOW, limit=3, purpose="batch_output")
    assert [file.id for file in page.items] == [output.id]


def test_quotas_count_drafts_and_nobody_elses(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.files.draft(file_of(size_bytes=60), max_bytes=100)
    stores.files.draft(file_of("other", size_bytes=90), max_bytes=100)
    with pytest.raises(QuotaExceeded, match="max_stored_bytes"):
        stores.files.draft(file_of(size_bytes=41), max_bytes=100)
    stores.files.draft(file_of(size_bytes=40), max_bytes=100)
    stores.files.draft(file_of(size_bytes=1_000))  # a gateway's own output
    monkeypatch.setattr(file_store, "MAX_FILES", 3)
    with pytest.raises(QuotaExceeded, match="3 files"):
        stores.files.draft(file_of(size_bytes=0), max_bytes=10_000)


def test_uploads_at_once_do_not_share_the_last_room(stores: Stores) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def draft() -> None:
        barrier.wait()
        try:
            stores.files.draft(file_of(size_bytes=40), max_bytes=100)
            outcomes.append("kept")
        except AdaptiveLoraError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=draft) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["kept", "kept", "quota_exceeded", "quota_exceeded"]


def test_a_file_that_a_batch_has_to_read_stays(stores: Stores) -> None:
    file = kept(stores)
    batch = stores.batches.add(batch_of(file), now=NOW, max_unfinished=1)
    with pytest.raises(Conflict, match=batch.id):
        stores.files.withdraw("acme", file.id, now=NOW)
    long_after = file.expires_at + DRAFT_GRACE + DAY
    assert stores.files.overdue(now=long_after) == ()
    stores.runs.claim(batch.id, "a", now=NOW, until=NOW)
    stores.runs.end(batch.id, "a", "cancelled", now=NOW, n_requests=0, n_failed=0)
    assert stores.files.overdue(now=long_after) == (file.id,)
    with pytest.raises(NotFound):
        stores.files.withdraw("other", file.id, now=NOW)
    stores.files.withdraw("acme", file.id, now=NOW)
    with pytest.raises(NotFound):
        stores.files.get("acme", file.id, now=NOW)


def test_what_dead_processes_leave_is_overdue_after_a_while(stores: Stores) -> None:
    """A draft that was never published, and a file that was withdrawn and not yet deleted."""
    draft, withdrawn, seen = file_of(), kept(stores), kept(stores)
    stores.files.draft(draft)
    stores.files.withdraw("acme", withdrawn.id, now=NOW)
    assert stores.files.overdue(now=NOW + DRAFT_GRACE / 2) == ()
    found = set(stores.files.overdue(now=NOW + DRAFT_GRACE * 2))
    assert found == {draft.id, withdrawn.id}
    for file_id in found:
        stores.files.forget(file_id)
    assert stores.files.overdue(now=NOW + DRAFT_GRACE * 2) == ()
    assert stores.files.known([draft.id, withdrawn.id, seen.id]) == {seen.id}


def test_the_folder_is_private(stores: Stores, tmp_path: Path) -> None:
    assert (tmp_path / "state" / "files").stat().st_mode & 0o077 == 0
