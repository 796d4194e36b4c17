"""How much memory a model, its adapters and their callers need, and which machines have it: arithmetic."""
