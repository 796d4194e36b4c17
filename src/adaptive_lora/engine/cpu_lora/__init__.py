"""vLLM plugin: correct, fast multi-LoRA on CPUs."""
