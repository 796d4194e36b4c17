"""The engine room: whatever turns prompts into tokens. Only this room imports vllm or torch while serving.

base       the contract (a Protocol)
vllm       VLLMInferenceEngine: vLLM in process, on a GPU or a CPU
remote     RemoteEngine: a pool of `vllm serve` workers, over HTTP
fake       FakeEngine: deterministic text without a model, for the tests of the rooms above
factory    settings in, engine out
cpu_lora   a vLLM plugin: correct and fast multi-LoRA on CPUs
"""
