"""Fill the secret volumes of docker-compose.prod.yml: `python scripts/compose_secrets.py /secrets`.

Each service has a folder of its own with what it needs, a file each. A value comes from the environment
(.env); else the file that is there stays; else it is random, so that a trial needs no preparation. What only
somebody else can give (a token of Hugging Face, Slack's address) is left out.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

RANDOM = (
    "JWT_SECRET",
    "WORKER_API_KEY",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "CACHE_SECRET",
    "LOG_SECRET",
    "GRAFANA_PASSWORD",
)
GIVEN = ("HF_TOKEN", "PAGERDUTY_ROUTING_KEY", "SLACK_WEBHOOK_URL")
DATABASE_URL = "postgresql://adaptive_lora:{POSTGRES_PASSWORD_IN_URL}@postgres:5432/adaptive_lora"
REDIS_URL = "redis://:{REDIS_PASSWORD_IN_URL}@redis:6379/0"
FILES = {
    "api": {
        "jwt_secrets": "{JWT_SECRET}",
        "worker_api_key": "{WORKER_API_KEY}",
        "database_url": DATABASE_URL,
        "redis_url": REDIS_URL,
        "adaptive_lora_cache__secret": "{CACHE_SECRET}",
        "adaptive_lora_monitoring__log_secret": "{LOG_SECRET}",
    },
    "engine": {"vllm_api_key": "{WORKER_API_KEY}"},
    "postgres": {"postgres_password": "{POSTGRES_PASSWORD}"},
    "redis": {"redis_password": "{REDIS_PASSWORD}"},
    "grafana": {"grafana_password": "{GRAFANA_PASSWORD}"},
    "alertmanager": {
        "pagerduty_routing_key": "{PAGERDUTY_ROUTING_KEY}",
        "slack_webhook_url": "{SLACK_WEBHOOK_URL}",
    },
    "prefetch": {"hf_token": "{HF_TOKEN}"},
}
"""By service, its files, and what stands in them. `own` keeps the random ones, and no service mounts it."""


def values(kept: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Each secret that there is, by name; random ones are kept in folder `kept`."""
    found = {}
    for name in (*RANDOM, *GIVEN):
        file = kept / name.lower()
        if environ.get(name):
            found[name] = environ[name]
        elif file.is_file():
            found[name] = file.read_text()
        elif name in RANDOM:
            found[name] = secrets.token_hex(32)
    for name in RANDOM:
        _write(kept / name.lower(), found[name], 0o600)
    return found


def fill(root: Path, environ: Mapping[str, str]) -> None:
    """Write every service's files below `root`. Readable by any user of the containers that mount them."""
    found = values(root / "own", environ)
    found |= {f"{name}_IN_URL": quote(value, safe="") for name, value in found.items()}
    for service, files in FILES.items():
        for name, template in files.items():
            try:
                _write(root / service / name, template.format_map(found), 0o444)
            except KeyError:
                (root / service / name).unlink(missing_ok=True)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), os.environ)
