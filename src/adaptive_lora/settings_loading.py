"""Read the settings: YAML file, then environment, then flags; say precisely what is wrong with them.

Environment variables are `ADAPTIVE_LORA_` and the key's path joined by `__`: ADAPTIVE_LORA_API__PORT=9000.
Lists are separated by commas, and what has keys of its own is JSON. Some have the deployment guide's own
names, too (BARE_NAMES); a platform's own are read with `platform.name`. An empty variable counts as not set,
`null` unsets what the file sets.
(`HF_TOKEN` is no setting: huggingface_hub reads it from the environment itself.)
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from adaptive_lora.demo_fleet import FOLDER_VARIABLE
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Section, Settings
from adaptive_lora.settings_platforms import platform_values

PREFIX = "ADAPTIVE_LORA_"
CONFIG_VARIABLE = "ADAPTIVE_LORA_CONFIG"
BARE_NAMES = {
    "BASE_MODEL": "model.base_model",
    "DATABASE_URL": "registry.database_url",
    "REDIS_URL": "redis.url",
    "JWT_SECRET": "auth.jwt_secret",
    "WORKER_API_KEY": "workers.api_key",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "tracing.endpoint",
    "OTEL_EXPORTER_OTLP_HEADERS": "tracing.headers",
    "OTEL_SERVICE_NAME": "tracing.service_name",
}
"""Variables of the deployment guide, and of OpenTelemetry, that carry no prefix. The prefixed name wins where
both are set."""

OTHER_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        FOLDER_VARIABLE,
        "ADAPTIVE_LORA_ADMIN_SERVER",
        "ADAPTIVE_LORA_API_KEY",
        "ADAPTIVE_LORA_BACKUP_KEY_FILE",
        "ADAPTIVE_LORA_BACKUP_URL",
        "ADAPTIVE_LORA_CPU_LORA",
        "ADAPTIVE_LORA_ENGINE_OWNER",
        "ADAPTIVE_LORA_SERVER",
        "ADAPTIVE_LORA_WORKER_WITHOUT_KEY",
    }
)
"""Variables with our prefix that are no settings: the config file, the demo's folder, the switches of the
vLLM plugins, the mark that an engine's processes inherit, what commands ask a server with, and where backups
lie."""


def known_keys() -> dict[str, FieldInfo]:
    """Every key's path ("api.port") with its field."""
    return {
        f"{section}.{key}": field
        for section, outer in Settings.model_fields.items()
        if isinstance(outer.annotation, type) and issubclass(outer.annotation, Section)
        for key, field in outer.annotation.model_fields.items()
    }


def secret_keys() -> frozenset[str]:
    """Paths of keys whose values are secret."""
    return frozenset(key for key in known_keys() if _is_secret(key))


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from `flags` (by key path) over `environ` over the file over the defaults.

    Without `path` the file is what ADAPTIVE_LORA_CONFIG names, or none. Raises SettingsError that names
    the source, the key and, for an unknown key, the nearest known one; all problems at once, a line each.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is not None:
        with contextlib.suppress(RuntimeError):  # ~ of nobody: then there is no such file
            path = path.expanduser()
    values: dict[str, tuple[Any, str]] = {}
    problems: list[str] = []
    file = list(_from_file(path, problems))
    later = [
        *_from_environment(environ, problems),
        *((key, value, "command line") for key, value in (flags or {}).items() if value is not None),
    ]
    names = [value for key, value, _ in (*file, *later) if key == "platform.name"]
    for key, value, source in (*file, *platform_values(names[-1] if names else None, environ), *later):
        values[key] = (value, source)
    settings = _validated(values, path, problems)
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings


def _from_file(path: Path | None, problems: list[str]) -> Iterator[tuple[str, Any, str]]:
    if path is None:
        return
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # nosec B506: plain values only
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not valid YAML: {_one_line(error)}") from error
    if tree is None:
        return
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path}: must hold sections ({', '.join(Settings.model_fields)}), not {_kind(tree)}"
        )
    for section, content in tree.items():
        if section not in Settings.model_fields:
            problems.append(f"{path}: {_unknown(str(section))}")
        elif content is not None and not isinstance(content, dict):
            problems.append(f"{path}: {section} must hold keys, not {_kind(content)}")
        else:
            for key, value in (content or {}).items():
                if f"{section}.{key}" in known_keys():
                    yield f"{section}.{key}", value, str(path)
                else:
                    problems.append(f"{path}: {_unknown(f'{section}.{key}')}")


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, Any, str]]:
    for name, key in BARE_NAMES.items():
        if environ.get(name):
            yield key, environ[name], name
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".", 1)
        if key not in known_keys():
            nearest = _nearest(key)
            hint = f"; did you mean {variable(nearest)}?" if nearest else ""
            problems.append(f"environment: {name} is not a known setting{hint}")
        elif value != "":
            yield key, _parsed(value, known_keys()[key]), name


def _parsed(text: str, field: FieldInfo) -> object:
    """A variable's text, as far as pydantic cannot convert it: null, lists, JSON, choices between numbers."""
    if text.lower() in ("null", "none"):
        return None
    if get_origin(field.annotation) is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    if get_origin(field.annotation) is dict:
        with contextlib.suppress(ValueError):
            return json.loads(text)
    if get_origin(field.annotation) is Literal and text.isdecimal():
        return int(text)
    return text


def variable(key: str) -> str:
    """The environment variable of a key: api.port is ADAPTIVE_LORA_API__PORT."""
    return PREFIX + key.replace(".", "__").upper()


def _validated(
    values: Mapping[str, tuple[Any, str]], path: Path | None, problems: list[str]
) -> Settings | None:
    tree: dict[str, dict[str, Any]] = {}
    for dotted, (value, _) in values.items():
        section, _, key = dotted.partition(".")
        tree.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = ".".join(str(part) for part in detail["loc"][:2])
            message = detail["msg"].removeprefix("Value error, ")
            if key in known_keys() and get_origin(known_keys()[key].annotation) is dict:
                message = ": ".join((".".join(map(str, detail["loc"][2:])), message)).removeprefix(": ")
            value, source = values.get(key, (None, str(path) if path else "settings"))
            if key in values:
                shown = "" if _is_secret(key) else f" (it is {value!r})"
                problems.append(f"{source}: {key}: {message}{shown}")
            else:
                problems.append(f"{source}: {key + ': ' if key else ''}{message}")
        return None


def _is_secret(key: str) -> bool:
    return SecretStr in (known_keys()[key].annotation, *get_args(known_keys()[key].annotation))


def _unknown(key: str) -> str:
    nearest = _nearest(key)
    return f"{key} is not a known setting" + (f"; did you mean {nearest}?" if nearest else "")


def _nearest(key: str) -> str | None:
    """The known section or key most like `key`, also in another section; None if nothing is near."""
    if "." not in key:
        sections = difflib.get_close_matches(key, Settings.model_fields, n=1)
        if sections:
            return sections[0]
    found = difflib.get_close_matches(key, known_keys(), n=1)
    if found:
        return found[0]
    last = key.rpartition(".")[2]
    by_last = {known.partition(".")[2]: known for known in known_keys()}
    return next((by_last[name] for name in difflib.get_close_matches(last, by_last, n=1)), None)


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", int: "a number", float: "a number", dict: "keys"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice; plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            is_text = isinstance(key, str)  # what is none may not even be hashable
            if not is_text or key in seen:
                what = f"{key!r} is written twice" if is_text else f"{key!r} must be a text"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
