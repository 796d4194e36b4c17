"""vLLM plugin: correct, fast multi-LoRA on CPUs.

ops      the arithmetic, pure torch
punica   vLLM's interface to it
plugin   the entry point that installs it
"""
