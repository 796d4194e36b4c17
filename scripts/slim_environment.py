"""Take out of an image's environment what no gateway runs: `/opt/venv/bin/python slim_environment.py`.

Tests, sources and tools that wheels bring for those who develop or build with them; debug symbols; and the
bytecode of all but the modules that a gateway imports: bytecode is a third of the space. What stays works as
before, since a module without bytecode is compiled when it is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

UNUSED = (
    "*/**/tests",
    "*/**/*.pyx",
    "*/**/*.pxd",
    "*/**/*.pyi",
    "*/**/*.[ch]",
    "numpy/distutils",
    "numpy/f2py",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "sqlalchemy/dialects/m*sql",
    "sqlalchemy/dialects/oracle",
    "sqlalchemy/testing",
    "onnxruntime/capi/libonnxruntime.so.*",  # the C library: Python's module holds it all a second time
)
ASKED_OF_AWS = {"s3", "sso", "sso-oidc", "sts"}
"""What s3fs asks; botocore brings a model of each of some 400 services."""
LOADED_BY_NAME = (
    "onnxruntime",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)


def remove_unused(packages: Path) -> None:
    services = (path for path in (packages / "botocore/data").iterdir() if path.is_dir())
    unasked = [path for path in services if path.name not in ASKED_OF_AWS]
    for path in [*unasked, *(path for pattern in UNUSED for path in list(packages.glob(pattern)))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip_symbols(packages: Path) -> None:
    """Of extension modules. auditwheel has moved about what is in *.libs, and strip breaks such libraries."""
    modules = [str(path) for path in packages.rglob("*.so") if not path.parent.name.endswith(".libs")]
    subprocess.run(["strip", "--strip-unneeded", *modules], check=True)


def imported_by_a_gateway() -> Iterator[Path]:
    """Sources of every module of ours that can be imported without torch, and of what these import."""
    import adaptive_lora

    ours = pkgutil.walk_packages(adaptive_lora.__path__, "adaptive_lora.", onerror=lambda _: None)
    names = [module.name for module in ours if ".migrations." not in module.name]  # alembic runs those
    for name in [*names, *LOADED_BY_NAME]:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] not in ("torch", "transformers", "vllm", "peft"):
                raise
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py"):
            yield Path(file)


def main(packages: Path) -> None:
    remove_unused(packages)
    strip_symbols(packages)
    for source in imported_by_a_gateway():
        if source.is_relative_to(packages):
            # No time in it: an image's layers give files other times, and two builds give the same bytes.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(source), doraise=True, invalidation_mode=mode)


if __name__ == "__main__":
    main(Path(sysconfig.get_path("purelib")))
