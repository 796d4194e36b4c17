"""vLLM's entry points. Name them in VLLM_PLUGINS, as vLLM demands for plugins that add endpoints:

    VLLM_PLUGINS=adaptive_lora_worker

That turns all others off; so this one also does what ours of them do (`cpu_lora`, `lifeline`).
"""

from __future__ import annotations

import logging
import os
import uuid
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from adaptive_lora.engine import lifeline
from adaptive_lora.engine.cpu_lora import plugin as cpu_lora
from adaptive_lora.engine.remote.wire import WorkerInfo
from adaptive_lora.errors import SettingsError
from adaptive_lora.worker.access import KeyRequired
from adaptive_lora.worker.endpoints import Endpoints

if TYPE_CHECKING:
    from adaptive_lora.settings import Settings
    from adaptive_lora.worker.files import AdapterFiles

NAME = "adaptive_lora_worker"
WITHOUT_KEY = "ADAPTIVE_LORA_WORKER_WITHOUT_KEY"
"""Set to "yes", it starts a worker that anybody may use who reaches its port."""

_log = logging.getLogger("vllm.adaptive_lora.worker")
"""Below "vllm", so that vLLM's logging configuration shows it."""


def register() -> None:
    """The general plugin, in each of vLLM's processes: only where the endpoints are wanted, too."""
    if NAME not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    from vllm.v1.worker.worker_base import WorkerBase

    from adaptive_lora.engine import worker_extension

    for name, call in worker_extension.calls().items():
        if not hasattr(WorkerBase, name):
            setattr(WorkerBase, name, call)
    cpu_lora.register()
    if lifeline.ENV not in os.environ:
        lifeline.announce()
    lifeline.register()


class WorkerPlugin:
    """The endpoint plugin, in the API server."""

    name = NAME
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Demand the key everywhere. Raises SettingsError if there is none."""
        keys = api_keys(app.state.args)
        if keys:
            app.add_middleware(KeyRequired, keys=keys)
        elif os.environ.get(WITHOUT_KEY) == "yes":
            _log.warning("this worker demands no API key: whoever reaches its port may use it")
        else:
            raise SettingsError(
                "a worker must demand an API key: start it with --api-key or VLLM_API_KEY (the gateway's "
                f"workers.api_key), or set {WITHOUT_KEY}=yes"
            )
        self._app = app

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Put an engine of ours on vLLM's, and serve it. Raises SettingsError where that cannot be."""
        import vllm

        from adaptive_lora.engine.factory import schedule
        from adaptive_lora.engine.vllm import VLLMInferenceEngine
        from adaptive_lora.settings_loading import load_settings
        from adaptive_lora.worker import resolver
        from adaptive_lora.worker.served import Served

        config = engine_client.vllm_config
        if config.lora_config is None:
            raise SettingsError("a worker needs --enable-lora")
        if config.parallel_config._api_process_count > 1:
            raise SettingsError("a worker needs one API server: --api-server-count 1")
        settings = load_settings(flags={"model.base_model": args.model})
        files = _files(settings, config.lora_config.max_lora_rank)
        template = _template(args)
        models = state.openai_serving_models

        served = Served(models)
        attached = VLLMInferenceEngine.attached(
            engine_client, new_lora_id=served.number, chat_template=template
        )
        engine = schedule(
            attached,
            settings.admission,
            n_slots=config.lora_config.max_loras,
            max_num_seqs=config.scheduler_config.max_num_seqs,
        )
        info = WorkerInfo(
            boot_id=uuid.uuid4().hex,
            version=version("adaptive-lora"),
            vllm_version=vllm.__version__,
            model_name=models.base_model_paths[0].name,
            fingerprint=files.base_fingerprint,
            max_model_len=engine.max_model_len,
            max_loras=config.lora_config.max_loras,
            max_cpu_loras=config.lora_config.max_cpu_loras or config.lora_config.max_loras,
            max_lora_rank=config.lora_config.max_lora_rank,
            text_fingerprint=_text_fingerprint(args.tokenizer or settings.model.base_model, template),
        )
        endpoints = Endpoints(engine, info, files.find, on_loaded=served.add, on_unloaded=served.remove)
        self._app.include_router(endpoints.router())
        resolver.install(files.find, models)
        _log.info("worker %s of %s", info.boot_id, info.model_name)


def api_keys(args: Namespace) -> list[str]:
    """Those that vLLM itself accepts: --api-key before VLLM_API_KEY."""
    import vllm.envs as envs

    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


def _template(args: Namespace) -> str | None:
    """--chat-template, which vLLM applies without telling the tokenizer."""
    from vllm.renderers.chat_utils import load_chat_template

    template = load_chat_template(args.chat_template)
    return None if template is None else str(template)


def _text_fingerprint(tokenizer: str, template: str | None) -> str | None:
    from adaptive_lora.adapters.base_folder import base_folder
    from adaptive_lora.adapters.base_text import text_fingerprint

    folder = base_folder(tokenizer)
    return None if folder is None else text_fingerprint(folder, template)


def _files(settings: Settings, max_rank: int) -> AdapterFiles:
    """Where this worker finds adapters, by the same settings as a gateway's."""
    from adaptive_lora.adapters.base import describe_base
    from adaptive_lora.adapters.base_folder import base_folder
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.adapters.store import Store
    from adaptive_lora.worker.files import AdapterFiles

    model, state = settings.model.base_model, state_folder(settings)
    folders: list[Path] = [state / "compositions"]
    if settings.adapters.path is not None:
        folders.insert(0, settings.adapters.path)
    return AdapterFiles(
        describe_base(model, base_folder(model)),
        max_rank=max_rank,
        folders=tuple(folders),
        store=Store(state, settings.storage.url),
    )
