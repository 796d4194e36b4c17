"""The demo fleet: generated data, a small base model, four LoRA agents, and the checks that score them."""
