"""Caps on everything that a request can make expensive. The engine never sees what is beyond them."""

from __future__ import annotations

MAX_PROMPT_CHARS = 32_000
MAX_MESSAGES = 256
MAX_CONVERSATION_CHARS = 128_000
MAX_BATCH = 128
"""Items of one /generate/batch, prompts of one /v1/completions."""
MAX_TOKENS = 1_048_576
"""Far above any context; the engine's own limit is the context."""
MAX_N = 16
MAX_CHOICES = 128
"""Prompts times n of one /v1/completions."""
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP_K = 100_000
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5
MAX_SEED = 2**63 - 1
MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 4_096
"""Of one function."""
MAX_CALL_ID_CHARS = 256

MAX_SCHEMA_BYTES = 16_384
MAX_SCHEMA_DEPTH = 16
MAX_SCHEMA_COST = 4_096
"""Sub-schemas, each counted as often as minItems and the like repeat it: what the grammar's size grows
with."""
MAX_SCHEMA_REPEAT = 1_000
"""Largest minItems, maxItems, minLength, ..."""
MAX_PATTERN_CHARS = 256
MAX_PATTERN_REPEAT = 128
"""xgrammar compiles no pattern with a larger bound: "Check failed: ... per_rule_fsm_hashes"."""
MAX_PATTERN_COST = 512
"""Of one pattern: schemas/patterns.py. At the worst four seconds of a core, with 100,000 tokens."""
MAX_PATTERNS_COST = 2_048
"""Of all patterns of a schema."""
LENGTH_WRITTEN_OUT = 128
"""xgrammar's time grows with a string's length as far as this: 3 s of a core, and 4.4 s for all longer ones,
with 100,000 made-up tokens."""
MAX_LENGTHS_COST = 1_024
"""Of the different pairs of minLength and maxLength: eight long ones, or dozens of short ones."""

BODY_READ_TIMEOUT_S = 30.0
MIN_UPLOAD_BYTES_PER_S = 10_000.0
"""On the average, past the first BODY_READ_TIMEOUT_S."""
MAX_ARRIVING_BYTES = 64 << 20
"""Of all bodies that are arriving, together; of one at least, whatever its size."""
