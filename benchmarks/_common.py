"""What the benchmarks share: a model and adapters with random weights, prompts, the last line of JSON."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

BENCH_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""83 M parameters, 71 M of them in the seven linear layers that the adapters change."""

TINY_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{{ 'assistant' }}"


def make_bench_model(
    folder: Path, *, config: dict[str, Any] | None = None, seed: int = 0, dtype: str = "bfloat16"
) -> Path:
    """A Llama with random weights; the tokenizer's words are its tokens ("w17" is token 17)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = BENCH_CONFIG if config is None else config
    torch.manual_seed(seed)
    llama = LlamaConfig(**config, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(llama)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
        # With transformers' small default the prompt would drown in the layers' output.
        model.model.embed_tokens.weight.normal_(0, 1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    make_word_tokenizer(folder, config["vocab_size"])
    return folder


def make_word_tokenizer(folder: Path, vocab_size: int) -> None:
    """Words w0, w1, ... separated by spaces; token 0 is <unk>, 1 <s>, 2 </s>. Has a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def make_bench_adapters(
    folder: Path,
    n: int,
    rank: int = 16,
    *,
    base: Path,
    seed: int = 0,
    strength: float = 1.0,
    modules: Sequence[str] = MODULES,
) -> list[Path]:
    """`n` PEFT adapters adapter-0, adapter-1, ... with random weights; `strength` scales B @ A."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    sizes = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, head * config["num_key_value_heads"]),
        "v_proj": (hidden, head * config["num_key_value_heads"]),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    paths = []
    for i in range(n):
        generator = torch.Generator().manual_seed(seed * 1000 + i)
        tensors = {}
        for layer in range(config["num_hidden_layers"]):
            for module in modules:
                n_in, n_out = sizes[module]
                block = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
                name = f"base_model.model.model.layers.{layer}.{block}.{module}"
                a = torch.randn(rank, n_in, generator=generator) * n_in**-0.5
                b = torch.randn(n_out, rank, generator=generator) * rank**-0.5 * strength
                tensors[f"{name}.lora_A.weight"] = a.to(dtype).contiguous()
                tensors[f"{name}.lora_B.weight"] = b.to(dtype).contiguous()
        path = folder / f"adapter-{i}"
        path.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path / "adapter_model.safetensors")
        peft = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(modules),
        }
        (path / "adapter_config.json").write_text(json.dumps(peft, indent=2))
        paths.append(path)
    return paths


def make_prompts(n: int, n_tokens: int, *, vocab_size: int = 8192, seed: int = 0) -> list[str]:
    """`n` prompts of exactly `n_tokens` tokens for the tokenizer of `make_word_tokenizer`, all different."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(3, vocab_size)}" for _ in range(n_tokens)) for _ in range(n)]


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    simd = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "simd": simd,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checked-out commit, with "+" if the tree has changes; "unknown" outside of a checkout."""
    root = Path(__file__).parent.parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def print_result(result: dict[str, Any], *, seed: int) -> None:
    """The last line of standard output: figures plus what they depend on, as JSON."""
    print(json.dumps({**result, "commit": commit(), "hardware": hardware(), "seed": seed}), flush=True)
