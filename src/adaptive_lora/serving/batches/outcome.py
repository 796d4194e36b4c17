"""The files that a batch leaves: its answers, and the requests that failed or were not answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Final

from adaptive_lora.batches.records import Batch, StoredFile, new_file_id
from adaptive_lora.batches.run_store import Ending
from adaptive_lora.batches.stores import Stores
from adaptive_lora.serving.batches.items import not_answered
from adaptive_lora.serving.batches.lines import InputFile

UNANSWERED: Final = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
    "failed": ("batch_failed", "This request was not executed: the batch failed, and says why."),
}
"""Code and message, by how the batch ended."""


def write_files(
    stores: Stores, batch: Batch, ending: Ending, source: InputFile | None, *, now: datetime, keep_s: float
) -> tuple[StoredFile | None, StoredFile | None]:
    """The output and the error file, put but not yet seen; None without a line. `source` is None if it
    cannot be read any more: then requests that were not answered have no line. Blocks."""
    unanswered: list[int] = []
    if ending != "completed" and source is not None:
        unanswered = sorted(set(range(len(source))) - stores.runs.done(batch.id))
    output = _write(stores, batch, "output", _answers(stores, batch, is_error=False), now, keep_s)
    failures = _failures(stores, batch, ending, source, unanswered)
    error_file = _write(stores, batch, "errors", failures, now, keep_s)
    return output, error_file


def _answers(stores: Stores, batch: Batch, *, is_error: bool) -> Iterator[str]:
    for _, content in stores.runs.results(batch.id, is_error=is_error):
        yield content


def _failures(
    stores: Stores, batch: Batch, ending: Ending, source: InputFile | None, unanswered: Iterable[int]
) -> Iterator[str]:
    yield from _answers(stores, batch, is_error=True)
    if source is not None:
        for index in unanswered:
            yield not_answered(source.read(index), *UNANSWERED[ending])


def _write(
    stores: Stores, batch: Batch, what: str, lines: Iterator[str], now: datetime, keep_s: float
) -> StoredFile | None:
    with ExitStack() as stack:
        draft = stack.enter_context(stores.contents.draft())
        size = 0
        with draft.open("wb") as out:
            for line in lines:
                size += out.write(line.encode() + b"\n")
        if not size:
            return None
        file = StoredFile(
            new_file_id(),
            batch.tenant,
            "batch_output",
            f"{batch.id}_{what}.jsonl",
            size,
            now,
            now + timedelta(seconds=keep_s),
        )
        stores.files.draft(file)
        stores.contents.put(draft, file.id)
        return file
