"""Ties vLLM's processes to the process that started the engine: they end with it, and not before.

vLLM's workers watch its engine core, but the core does not watch its parent: it would keep the model in
memory and its port open for ever. And it ends on every SIGTERM and SIGINT, at once, with all that it
generates: a terminal's Ctrl-C and `tini -g` send theirs to the whole process group, to an owner that wants to
finish its answers first. Loaded as a `vllm.general_plugins` entry point in each of vLLM's processes, this
watches the parent, and leaves its group; only in engines of ours, which `announce` themselves in the
environment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

ENV = "ADAPTIVE_LORA_ENGINE_OWNER"
POLL_S = 0.5
GRACE_S = 5.0

_watching = False


def announce() -> None:
    """Make this process the owner of the engines that it starts from now on."""
    os.environ[ENV] = str(os.getpid())


def register() -> None:
    """The entry point: watch the parent, in a process below an owner, out of reach of what signals the
    owner's group. Idempotent; never raises."""
    global _watching
    owner = os.environ.get(ENV)
    if owner is None or owner == str(os.getpid()) or _watching:
        return
    _watching = True
    with suppress(PermissionError):  # the leader of a session has a group of its own already
        os.setpgid(0, 0)
    # The owner may be gone already; then the parent is whoever adopts orphans.
    parent = -1 if os.getppid() == 1 and owner != "1" else os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
