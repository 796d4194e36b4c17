"""Adaptive LoRA: serve, route and improve a fleet of LoRA adapters on one base model."""

__version__ = "0.1.0"
