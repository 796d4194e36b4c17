"""Which agent should answer a prompt: features, a linear head, calibration, and a policy that knows when to
abstain.

Needs numpy; the sentence encoder also onnxruntime and tokenizers. Learns in process, from example prompts
alone.
"""
