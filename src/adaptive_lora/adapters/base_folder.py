"""Where the base model's files are on this host, if they are."""

from __future__ import annotations

from pathlib import Path


def base_folder(base_model: str) -> Path | None:
    """The folder itself, or where Hugging Face's cache keeps that id; None if there is neither."""
    if Path(base_model).is_dir():
        return Path(base_model)
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(base_model, "config.json")
    except HFValidationError:
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None
