"""Every error that Adaptive LoRA raises on purpose. Knows no HTTP: statuses are in `serving/errors.py`.

AdaptiveLoraError
├── InvalidRequest            the caller's input cannot be served as it is
│   ├── InvalidName           a model name that the grammar does not know
│   ├── PromptTooLong         prompt + max_tokens do not fit into the model's context
│   └── Unsupported           well-formed, but this engine or build cannot do it
├── NotFound
│   └── UnknownAdapter        never answered by the base model instead
├── Unauthenticated           no credentials, or such as prove nothing
├── Forbidden                 known, and not allowed to do it
├── AdapterError              an adapter folder that must not be served
│   ├── ManifestInvalid       manifest missing, unreadable, or with unknown or missing fields
│   ├── UnsafeFile            weights that are not safetensors, or a file that has no business there
│   │   ├── UnsafeLink        a symbolic link, wherever it points
│   │   └── UnsafeName        a name outside the grammar: one that leaves the folder, a reserved word
│   ├── HashMismatch          a file differs from its manifest
│   ├── UnsupportedAdapter    a PEFT method or option that the engine does not serve
│   ├── WrongBase             trained for another base model
│   ├── RankTooLarge          rank above the engine's max_lora_rank
│   ├── WrongModules          target modules or shapes that the base does not have
│   ├── NonFiniteWeights      NaN or infinity in the weights
│   ├── NoEffect              the engine answers with it exactly as without it
│   ├── WorseThanBase         on its own examples the base does better
│   ├── SourceNotAllowed      a place that adapters may not come from
│   └── UnsafeArchive         too large, too many entries, links, or names that leave the folder
├── Conflict                  the fleet is not in the state that the change needs
├── QuotaExceeded             a tenant keeps as much here as it may: files, unfinished batches
├── StorageError
│   ├── StorageUnavailable    a file system, a bucket or a download that does not answer (retryable)
│   └── StorageFull           no room on the disk
├── RegistryUnavailable       the database does not answer (retryable)
├── RedisUnavailable          Redis does not answer (retryable); limits and cache go on without it
├── RateLimited               more than the caller's limit: requests, tokens, requests at once (retryable)
│   └── BudgetSpent           the month's tokens are used up
├── ShuttingDown              this process ends; others, or the next one, answer (retryable)
├── RouterError
│   ├── NoCandidates          nothing to choose from
│   └── BundleError           a router bundle that is missing, damaged, or of another encoder
├── EngineError
│   ├── EngineNotReady        still loading, or stopped (retryable)
│   ├── EngineDead            the engine's process is gone
│   ├── WorkerLost            a remote worker went away in the middle of an answer (retryable)
│   ├── Overloaded            the queue is full (retryable)
│   ├── DeadlineExceeded      the request ran past its time limit (retryable)
│   └── RequestAborted        the caller or an operator stopped it
└── SettingsError             a configuration that must not start
"""

from __future__ import annotations

from typing import ClassVar


class AdaptiveLoraError(Exception):
    """Base of the tree. `code` is stable, for programs; `message` says what to do, and leaks nothing."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(AdaptiveLoraError):
    code = "invalid_request"


class InvalidName(InvalidRequest):
    code = "invalid_name"


class PromptTooLong(InvalidRequest):
    code = "prompt_too_long"


class Unsupported(InvalidRequest):
    code = "unsupported"


class NotFound(AdaptiveLoraError):
    code = "not_found"


class UnknownAdapter(NotFound):
    code = "unknown_adapter"


class Unauthenticated(AdaptiveLoraError):
    code = "unauthenticated"


class Forbidden(AdaptiveLoraError):
    code = "forbidden"


class AdapterError(AdaptiveLoraError):
    code = "adapter_error"


class ManifestInvalid(AdapterError):
    code = "manifest_invalid"


class UnsafeFile(AdapterError):
    code = "unsafe_file"


class UnsafeLink(UnsafeFile):
    code = "unsafe_link"


class UnsafeName(UnsafeFile):
    code = "unsafe_name"


class HashMismatch(AdapterError):
    code = "hash_mismatch"


class UnsupportedAdapter(AdapterError):
    code = "unsupported_adapter"


class WrongBase(AdapterError):
    code = "wrong_base"


class RankTooLarge(AdapterError):
    code = "rank_too_large"


class WrongModules(AdapterError):
    code = "wrong_modules"


class NonFiniteWeights(AdapterError):
    code = "non_finite_weights"


class NoEffect(AdapterError):
    code = "no_effect"


class WorseThanBase(AdapterError):
    code = "worse_than_base"


class SourceNotAllowed(AdapterError):
    code = "source_not_allowed"


class UnsafeArchive(AdapterError):
    code = "unsafe_archive"


class Conflict(AdaptiveLoraError):
    code = "conflict"


class QuotaExceeded(AdaptiveLoraError):
    code = "quota_exceeded"


class StorageError(AdaptiveLoraError):
    code = "storage_error"


class StorageUnavailable(StorageError):
    code = "storage_unavailable"
    retryable = True


class StorageFull(StorageError):
    code = "storage_full"


class RegistryUnavailable(AdaptiveLoraError):
    code = "registry_unavailable"
    retryable = True


class RedisUnavailable(AdaptiveLoraError):
    code = "redis_unavailable"
    retryable = True


class RateLimited(AdaptiveLoraError):
    """`retry_after_s`: from then on it is admitted, if nobody else uses the same limit before."""

    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetSpent(RateLimited):
    code = "insufficient_quota"
    retryable = False


class ShuttingDown(AdaptiveLoraError):
    code = "shutting_down"
    retryable = True


class RouterError(AdaptiveLoraError):
    code = "router_error"


class NoCandidates(RouterError):
    code = "no_candidates"


class BundleError(RouterError):
    code = "bundle_error"


class EngineError(AdaptiveLoraError):
    code = "engine_error"


class EngineNotReady(EngineError):
    code = "engine_not_ready"
    retryable = True


class EngineDead(EngineError):
    code = "engine_dead"


class WorkerLost(EngineError):
    code = "worker_lost"
    retryable = True


class Overloaded(EngineError):
    """`retry_after_s`: when it may be worth while to try again."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(EngineError):
    code = "deadline_exceeded"
    retryable = True


class RequestAborted(EngineError):
    code = "request_aborted"


class SettingsError(AdaptiveLoraError):
    code = "settings_error"
