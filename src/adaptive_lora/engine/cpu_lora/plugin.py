def register() -> None:
    """Placeholder until the ops land."""
