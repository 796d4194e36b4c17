"""The command `adaptive-lora`: reads settings and argv, and hands each room its own slice.

    serve       the server
    generate    one answer, in this process or from a running server
    route       who would answer, and why
    adapters    list and verify the fleet's files
    doctor      what this machine can run, and what is missing

Answers go to stdout, everything else to stderr. Importing this package imports neither torch nor vllm.
"""

from adaptive_lora.cli.app import app, main

__all__ = ["app", "main"]
