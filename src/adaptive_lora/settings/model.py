"""The base model, workers that may hold it, its adapters with their files and history, and who chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from adaptive_lora.settings.section import Section


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


class WorkersSettings(Section):
    """`vllm serve` processes that a gateway with model.engine = remote drives."""

    urls: tuple[str, ...] = Field((), description="addresses, http(s)://host:port")
    dns: str | None = Field(
        None,
        description="instead of urls: name:port (or https://name:port), of which every address is a worker",
    )
    api_key: SecretStr | None = Field(
        None,
        description="the key that every worker demands (its --api-key); this or api_key_file is needed with "
        "engine = remote",
    )
    api_key_file: Path | None = Field(
        None, description="file of that key, instead of api_key; read again when it changes"
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
    password_file: Path | None = Field(
        None,
        description="file of the password, which database_url then leaves out; read for each new connection",
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
