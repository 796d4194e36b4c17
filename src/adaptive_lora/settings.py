"""The one typed tree of settings: a YAML file, overridden by the environment. Unknown keys are errors.

Sections and keys of the deployment guide keep their names. A room receives its own section and nothing else.
Loading (files, environment, the nearest known key in an error) is in `settings_loading`; the reference page
`docs/reference/settings.md` is generated from the descriptions here.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_ROUTE = r"^/[A-Za-z0-9/_.:-]*$"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*=[ -~]*")


class Section(BaseModel):
    """Frozen; refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(Section):
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    workers: int = Field(
        1,
        ge=1,
        description="processes of one gateway: exactly 1, which is 1 per GPU with an engine of its own; with "
        "remote workers start more gateways",
    )
    timeout: float = Field(300.0, gt=0, description="seconds that one request may take, queue included")
    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="seconds that a server goes on serving after SIGTERM, not ready any more, so that "
        "balancers see it; Ctrl-C does not wait",
    )
    grace_seconds: float = Field(
        30.0,
        ge=1,
        description="seconds from SIGTERM to the end, drain_seconds included: at most Kubernetes' "
        "terminationGracePeriodSeconds; what has not finished by then ends with an error",
    )
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="largest request body, in bytes")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that requests may carry; default: those of a loopback address, else any"
    )
    max_concurrent_requests: int = Field(
        1024,
        ge=1,
        description="requests in flight, waiting ones included; beyond it 503 with Retry-After",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="open connections; beyond it the one that has idled longest is closed for a new one",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="addresses or networks (CIDR) whose X-Forwarded-For is believed; default: none, the "
        "connection's own address counts",
    )
    docs: bool = Field(True, description="serve /docs and /openapi.json, to anybody")
    admin_host: str = Field("127.0.0.1", description="address to bind for admin_port")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the administrators' endpoints (keys, audit), 0 takes a free one; default: they "
        "are served nowhere",
    )

    @model_validator(mode="after")
    def _the_drain_leaves_time_to_finish(self) -> Self:
        if self.drain_seconds >= self.grace_seconds:
            raise ValueError(
                f"drain_seconds ({self.drain_seconds:g}) must be less than grace_seconds "
                f"({self.grace_seconds:g}): requests finish in what is left"
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ipaddress.ip_network(proxy)
        return proxies


class AuthSettings(Section):
    """Who may call. API keys need only `enabled`; JSON Web Tokens need a secret or a JWKS file."""

    enabled: bool = Field(
        False, description="ask for API keys or tokens; needed on an address that others can reach"
    )
    allow_insecure: bool = Field(
        False,
        description="with an explicit enabled: false, serve an address that others can reach without "
        "asking who calls",
    )
    jwt_secret: SecretStr | None = Field(
        None, description="what tokens are signed with (HS256), at least 32 random bytes"
    )
    jwt_secret_file: Path | None = Field(
        None,
        description="file of such secrets, one a line: the first signs, all are believed; read again when it "
        "changes",
    )
    algorithm: Literal["HS256", "RS256", "EdDSA"] = Field(
        "HS256", description="the one algorithm of tokens; others are refused whatever a token says"
    )
    jwks_file: Path | None = Field(
        None,
        description="JSON Web Key Set with the public keys of RS256 or EdDSA; read again when it changes",
    )
    issuer: str = Field("adaptive-lora", min_length=1, description="what a token's iss must be")
    audience: str = Field("adaptive-lora", min_length=1, description="what a token's aud must contain")
    leeway: float = Field(
        10.0, ge=0, le=300, description="seconds that clocks may differ when a token's times are checked"
    )
    require_agents: bool = Field(
        False, description="refuse tokens without the claim agents, which otherwise are good for all of them"
    )
    failures_per_minute: int | None = Field(
        30,
        ge=1,
        description="credentials that prove nothing, of one address; beyond it 429 instead of 401, while "
        "good ones are believed as ever; null is no limit",
    )


class ModelSettings(Section):
    base_model: str = Field("demo", description="'demo', a local folder, or a Hugging Face model id")
    engine: Literal["vllm", "remote", "fake"] = Field(
        "vllm",
        description="'vllm' runs in this process; 'remote' drives the workers of the section workers; 'fake' "
        "echoes deterministic text, for tests only",
    )
    max_model_len: int | None = Field(None, ge=16, description="context in tokens; default: the model's own")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of GPU memory for weights and KV cache"
    )
    quantization: str | None = Field(
        None,
        description="vLLM's name of a method: 'bitsandbytes' makes 4-bit NF4 of the weights while they load, "
        "'awq', 'gptq', 'fp8', 'compressed-tensors', ... must be the checkpoint's own; default: what the "
        "checkpoint says",
    )
    quantized_from: str | None = Field(
        None,
        description="the original of a quantised base model ('demo', a folder, or a Hugging Face id), whose "
        "adapters are accepted, too; default: what the folder says, if `quantise make` made it",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that each layer is split over")
    pipeline_parallel_size: int = Field(
        1, ge=1, description="groups of GPUs that the layers are divided among"
    )
    distributed_executor_backend: Literal["mp", "ray"] | None = Field(
        None,
        description="what starts the workers: 'mp' processes on this machine, 'ray' a Ray cluster; default: "
        "vLLM's choice",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; float32 on CPUs only"
    )
    seed: int = Field(0, ge=0, description="the engine's seed")
    enforce_eager: bool = Field(False, description="no compilation and no CUDA graphs: slower, starts sooner")
    kv_cache_bytes: int | None = Field(
        None,
        ge=1 << 20,
        description="KV cache in bytes of each worker; default: measured (CPU), or vLLM's (GPU)",
    )


class AdaptersSettings(Section):
    path: Path | None = Field(
        None, description="folder of adapters, one sub-folder each; default: the demo's own, or none"
    )
    max_loras: int = Field(8, ge=1, le=256, description="adapters in one batch (slots in the engine)")
    max_cpu_loras: int = Field(64, ge=1, description="adapters kept in host memory; at least max_loras")
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        16, description="largest rank that is accepted"
    )
    effect_checks: bool = Field(
        True,
        description="prove an adapter before it serves: that it changes the base's output on its own "
        "examples, and does not lose to the base on its probes",
    )
    composition_method: Literal["cat", "ties", "dare_linear", "dare_ties"] = Field(
        "cat", description="how agents are composed: the exact sum, or a merge that others have proposed"
    )
    composition_density: float = Field(
        0.5, gt=0, le=1, description="share of a part's entries that ties and dare keep"
    )
    max_compositions: int = Field(
        8, ge=0, description="weighted sums of agents kept loaded, the least used ones leave; 0 serves none"
    )

    @model_validator(mode="after")
    def _host_memory_holds_every_slot(self) -> Self:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"max_cpu_loras ({self.max_cpu_loras}) must be at least max_loras ({self.max_loras}): "
                "every adapter in a slot is also kept in host memory"
            )
        return self


class StorageSettings(Section):
    path: Path | None = Field(
        None,
        description="folder of this host's state: adapters that were added, the registry; default: "
        "$XDG_STATE_HOME/adaptive-lora/ and the base model's name",
    )
    url: str | None = Field(
        None,
        description="object storage that mirrors added adapters for other hosts: s3://, gs://, az:// or "
        "file:///",
    )
    allowed_sources: tuple[str, ...] = Field(
        (),
        description="prefixes of addresses that adapters may be fetched from, such as s3://bucket/adapters "
        "or hf://org; default: uploads alone",
    )
    max_archive_bytes: int = Field(
        2 << 30,
        ge=1,
        description="largest upload, and largest adapter that is unpacked or fetched, in bytes",
    )
    max_archive_entries: int = Field(64, ge=1, description="most files of an uploaded or fetched adapter")


class RegistrySettings(Section):
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://user:password@host:5432/database, which several gateways may share; "
        "default: a SQLite file in the state folder",
    )


class InferenceSettings(Section):
    max_batch_size: int = Field(
        32, ge=1, description="sequences that the engine runs at once (vLLM's max_num_seqs)"
    )
    enable_streaming: bool = Field(
        True, description="answer stream=true; when false such requests are refused"
    )
    cache_enabled: bool = Field(
        False, description="keep repeatable answers, and generate one for identical requests at once"
    )


class QueueSettings(Section):
    """Whose turn it is, when more is asked for than the engine runs at once: tenants take turns by the tokens
    that they use."""

    max_per_tenant: int = Field(
        256, ge=1, description="generations of one tenant that wait; beyond it 429 with Retry-After"
    )
    window: int | None = Field(
        None,
        ge=1,
        description="sequences that are let into the engine at once, running and standing ready; default: "
        "inference.max_batch_size times 1.5, times 4 if there are more adapters than slots; of workers, "
        "inference.max_batch_size of each times 2",
    )
    batch_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of the sequences that the engine runs at once which work of low priority may take",
    )
    weights: dict[str, float] = Field(
        {},
        description="by tier, how much its tenants get beside those of weight 1: {gold: 4}; a variable has "
        "JSON",
    )

    @field_validator("weights")
    @classmethod
    def _are_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for tier, weight in weights.items():
            if not 0.001 <= weight <= 1000:
                raise ValueError(f"the weight of {tier!r} must be from 0.001 to 1000")
        return weights


class AdmissionSettings(Section):
    """Who enters an engine in this process, when more adapters are asked for than have slots."""

    policy: Literal["residency", "fifo"] = Field(
        "residency",
        description="'residency': whose adapter is in the batch or in a slot goes first; 'fifo': by age",
    )
    max_wait_rounds: int = Field(
        256, ge=0, description="later requests for other adapters that may go before an earlier one"
    )
    prefetch: bool = Field(
        True, description="read adapters that are next, and on disk alone, while others run"
    )


class RouterSettings(Section):
    encoder_path: Path | None = Field(
        None, description="folder that `make encoder` built; default: the shipped one"
    )
    use_encoder: bool = Field(True, description="false: n-grams only")
    bundle_path: Path | None = Field(
        None,
        description="folder of bundles that `adaptive-lora router fit` wrote: its current one is served, "
        "with its own thresholds; default: learn from the adapters' examples at start",
    )
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="below it the base answers; default: calibrated"
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="bound on the share of wrong agents among routed prompts; the base answers what would "
        "break it; default: none is promised",
    )
    learning_path: Path | None = Field(
        None,
        description="folder of choices and rewards: the router learns from them who answers best; default: "
        "it does not",
    )
    seed: int = Field(0, ge=0, description="seed of the calibration split, and of what learning tries")


class RedisSettings(Section):
    """What several gateways share: limits, and cached answers."""

    url: SecretStr | None = Field(
        None,
        description="redis://user:password@host:6379/0, or rediss:// for TLS; default: limits and cache are "
        "this process's own",
    )
    timeout: float = Field(
        0.1, ge=0.01, le=5, description="seconds that a command may take, connecting included"
    )
    ca_file: Path | None = Field(
        None, description="certificates that sign a rediss server's own; default: those of the system"
    )
    sentinels: tuple[str, ...] = Field(
        (),
        description="host:port of the Sentinels, if there are any: then the host in url is their name for "
        "the primary",
    )

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        for sentinel in self.sentinels:
            host, _, port = sentinel.rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError(f"sentinels: {sentinel!r} must be host:port")
        if self.url is None:
            return self
        try:
            parts = urlsplit(self.url.get_secret_value())
            port_is_valid = parts.port is None or parts.port > 0
        except ValueError:
            port_is_valid = False
        if not port_is_valid or parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("url must be redis://host:port/database, or rediss://")
        if parts.query or not re.fullmatch(r"(/\d{0,4})?", parts.path):
            raise ValueError("url must end with the database's number, such as /0, or with the port")
        return self


class CacheSettings(Section):
    """Answers that are kept, with inference.cache_enabled: in Redis if there is one, else in this process.
    The secret also makes the tenants' salts for the engine's prefix cache, whether answers are kept or
    not."""

    ttl: float = Field(3600.0, gt=0, le=30 * 86_400, description="seconds that an answer is kept")
    max_bytes: int = Field(
        64 << 20, ge=1 << 16, description="memory for answers in this process, without Redis; in bytes"
    )
    max_value_bytes: int = Field(
        256 << 10, ge=1_024, le=16 << 20, description="largest answer that is kept, compressed, in bytes"
    )
    secret: SecretStr | None = Field(
        None,
        description="at least 32 random bytes, the same for every gateway: keys in Redis then reveal no "
        "prompt, answers there cannot be forged, and gateways share the workers' prefix caches; default: "
        "keys are plain hashes",
    )
    namespace: str = Field(
        "", max_length=64, description="part of every key: with another one, all that was kept is forgotten"
    )

    @model_validator(mode="after")
    def _secret_is_long_enough(self) -> Self:
        if self.secret is not None and len(self.secret.get_secret_value().encode()) < 32:
            raise ValueError("secret must have at least 32 bytes: openssl rand -hex 32")
        return self


class TierSettings(Section):
    """What differs from the section's own limits; null is no limit."""

    requests_per_minute: int | None = Field(None, ge=1)
    burst_size: int = Field(10, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    token_burst: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)


class RateLimitingSettings(Section):
    """What each tenant may use; without authentication, each address."""

    enabled: bool = Field(False, description="limit each caller")
    requests_per_minute: int | None = Field(60, ge=1, description="sustained rate; null is no limit")
    burst_size: int = Field(10, ge=1, description="requests at once")
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="of prompts and answers; the most that a request may use is reserved first",
    )
    token_burst: int | None = Field(
        None, ge=1, description="tokens at once, and so the most of one request; default: a minute's"
    )
    max_concurrent: int | None = Field(None, ge=1, description="requests in flight")
    tokens_per_month: int | None = Field(None, ge=1, description="budget of a calendar month, UTC")
    key_share: float = Field(
        1.0, gt=0, le=1, description="share of its tenant's limits that one credential may use"
    )
    tiers: dict[str, TierSettings] = Field(
        {},
        description="by tier, the limits that differ: {gold: {requests_per_minute: 600}}; a variable has "
        "JSON",
    )
    replicas: int = Field(1, ge=1, description="gateways: without Redis, each allows its part of the limits")


class MonitoringSettings(Section):
    prometheus_enabled: bool = Field(True, description="serve /metrics")
    metrics_host: str = Field("127.0.0.1", description="address to bind for metrics_port")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port that serves /metrics alone, to anybody who reaches it: never publish it; 0 takes a "
        "free one; default: /metrics is on the public port only, where it needs the scope metrics",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="lowest level that is logged"
    )
    log_prompts: Literal["none", "hash", "full"] = Field(
        "hash",
        description="of each request's prompt, its log line has: nothing; its length and a keyed hash; or "
        "those and the text, shortened",
    )
    log_secret: SecretStr | None = Field(
        None,
        description="at least 32 random bytes, key of the hashes of prompts: gateways with the same one give "
        "a prompt the same hash; default: a random one of this process",
    )

    @model_validator(mode="after")
    def _a_port_has_something_to_serve(self) -> Self:
        if self.metrics_port is not None and not self.prometheus_enabled:
            raise ValueError(
                f"metrics_port is {self.metrics_port} and prometheus_enabled is false, which contradict each "
                "other: choose one"
            )
        return self

    @model_validator(mode="after")
    def _secret_is_long_enough(self) -> Self:
        if self.log_secret is not None and len(self.log_secret.get_secret_value().encode()) < 32:
            raise ValueError("log_secret must have at least 32 bytes: openssl rand -hex 32")
        return self


class TracingSettings(Section):
    """Traces of requests, sent to a collector by OTLP over HTTP."""

    endpoint: str | None = Field(
        None,
        description="http(s)://host:4318 of a collector, which takes traces at /v1/traces below it; default: "
        "nothing is traced",
    )
    headers: SecretStr | None = Field(
        None,
        description="headers that the collector asks for: name=value, several with commas between them, "
        "values percent-encoded",
    )
    sample_ratio: float = Field(0.1, ge=0, le=1, description="share of requests whose trace is recorded")
    service_name: str = Field("adaptive-lora", min_length=1, description="what the traces call this service")
    continue_traces: bool = Field(
        False,
        description="a request that names a trace (traceparent) belongs to it, and is recorded if its caller "
        "records it; only where all callers are your own. Default: a trace of its own, with a link",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be http(s)://host:port of a collector that takes OTLP over HTTP")
        if parts.username is not None:
            raise ValueError("must have no credentials in it: set headers")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _are_pairs(cls, headers: SecretStr | None) -> SecretStr | None:
        for pair in headers.get_secret_value().split(",") if headers else ():
            if pair.strip() and not _HEADER.fullmatch(pair.strip()):
                raise ValueError("must be name=value, with commas between several")
        return headers


class WorkersSettings(Section):
    """`vllm serve` processes that a gateway with model.engine = remote drives."""

    urls: tuple[str, ...] = Field((), description="addresses, http(s)://host:port")
    dns: str | None = Field(
        None,
        description="instead of urls: name:port (or https://name:port), of which every address is a worker",
    )
    api_key: SecretStr | None = Field(
        None, description="the key that every worker demands (its --api-key); needed with engine = remote"
    )
    tls_verify: bool = Field(True, description="check the certificates of https workers")
    ca_file: Path | None = Field(
        None, description="certificates that sign the workers' own; default: those of the system"
    )
    max_connections: int = Field(512, ge=1, description="connections to one worker; each request holds one")
    max_attempts: int = Field(
        3, ge=1, description="workers that a request is tried on before its first token"
    )
    max_replicas: int = Field(2, ge=1, description="workers that one hot adapter may be spread over")
    first_token_timeout: float = Field(
        60.0,
        gt=0,
        description="seconds until a worker's first token, its queue included; then the next is tried",
    )
    chunk_timeout: float = Field(
        30.0, gt=0, description="seconds between two tokens; then the worker counts as lost"
    )
    start_timeout: float = Field(
        900.0, gt=0, description="seconds that the gateway waits for a first worker when it starts"
    )
    refresh_interval: float = Field(
        5.0, gt=0, description="seconds between two looks at the DNS name and at each worker's state"
    )
    canary_interval: float = Field(
        10.0, gt=0, description="seconds without a token after which a worker must answer a canary"
    )
    canary_timeout: float = Field(30.0, gt=0, description="seconds that a canary generation may take")


class BatchesSettings(Section):
    """OpenAI's files and batches, which are answered in the background."""

    max_in_flight: int = Field(
        8,
        ge=0,
        le=256,
        description="requests of batches that this gateway has in flight; 0 leaves batches to other gateways",
    )
    max_requests: int = Field(50_000, ge=1, le=100_000, description="requests of one batch")
    max_unfinished: int = Field(16, ge=1, le=1_000, description="batches of a tenant that have not ended")
    max_file_bytes: int = Field(
        200_000_000, ge=1_000, le=1_000_000_000, description="largest file that is uploaded, in bytes"
    )
    max_stored_bytes: int = Field(
        2_000_000_000,
        ge=1_000,
        description="all files of a tenant, in bytes; outputs count, and are never refused",
    )
    retention: float = Field(
        30 * 86_400.0,
        ge=3_600,
        le=365 * 86_400,
        description="seconds that files, and batches that have ended, are kept",
    )
    takeover: float = Field(
        30.0,
        ge=1,
        le=600,
        description="seconds without a sign of life after which another gateway takes a batch over",
    )


class PlatformSettings(Section):
    """A managed platform whose contract is answered beside our own endpoints. Its name also binds 0.0.0.0
    and the platform's port; without authentication callers may generate, and nothing else."""

    name: Literal["sagemaker", "vertex", "azureml"] | None = Field(
        None, description="'sagemaker', 'vertex' (Google) or 'azureml'; default: none"
    )
    predict_route: str | None = Field(
        None,
        pattern=_ROUTE,
        description="path that answers; default: /invocations, AIP_PREDICT_ROUTE or /predict, /score",
    )
    health_route: str | None = Field(
        None,
        pattern=_ROUTE,
        description="path of the platform's probe; default: /ping, AIP_HEALTH_ROUTE or /ready, /ready",
    )


class Settings(Section):
    """Everything. Order of precedence: environment, file, defaults."""

    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    model: ModelSettings = ModelSettings()
    workers: WorkersSettings = WorkersSettings()
    adapters: AdaptersSettings = AdaptersSettings()
    storage: StorageSettings = StorageSettings()
    registry: RegistrySettings = RegistrySettings()
    inference: InferenceSettings = InferenceSettings()
    queue: QueueSettings = QueueSettings()
    admission: AdmissionSettings = AdmissionSettings()
    router: RouterSettings = RouterSettings()
    redis: RedisSettings = RedisSettings()
    cache: CacheSettings = CacheSettings()
    rate_limiting: RateLimitingSettings = RateLimitingSettings()
    batches: BatchesSettings = BatchesSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tracing: TracingSettings = TracingSettings()
    platform: PlatformSettings = PlatformSettings()

    @model_validator(mode="after")
    def _a_remote_engine_has_workers(self) -> Self:
        if self.model.engine != "remote":
            return self
        if bool(self.workers.urls) == bool(self.workers.dns):
            raise ValueError("model.engine is remote: set workers.urls or workers.dns, one of them")
        if self.workers.api_key is None:
            raise ValueError(
                "model.engine is remote: set workers.api_key (WORKER_API_KEY) to what the workers demand"
            )
        return self

    @model_validator(mode="after")
    def _one_worker_per_engine(self) -> Self:
        if self.api.workers > 1 and self.model.engine == "remote":
            raise ValueError(
                f"api.workers is {self.api.workers}, and a gateway is one process, with a port and metrics "
                "of its own: start more gateways behind a balancer instead, with redis.url and "
                "registry.database_url in common"
            )
        if self.api.workers > 1:
            raise ValueError(
                f"api.workers is {self.api.workers}, but the engine runs inside the gateway's process and "
                "allows exactly 1 (one worker per GPU); start more replicas instead"
            )
        return self
