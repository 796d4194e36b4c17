"""Make .venv and install a lock into it; do nothing when that is already there.

    python3 scripts/install.py serve      the CPU or the CUDA build, whichever this machine can run
    python3 scripts/install.py train      that, and what training needs
    python3 scripts/install.py dev        that, and what tests and checks need
    python3 scripts/install.py encoder    serve, and what builds the router's encoder
    python3 scripts/install.py workflows  build/workflows: tools of the workflows, without us
    python3 scripts/install.py manifests  build/manifests: tools of `make test-manifests`, without us

ENGINE=cpu|gpu forces the build. VENV names another folder than .venv. Standard library only, and no syntax
newer than Python 3.7: it must be able to say in plain words that the Python it was started with is too old.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12), (3, 13))
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TOOLS = ("manifests", "workflows")
LAYERS = {"serve": (), "train": ("train",), "dev": ("cloud", "train", "dev"), "encoder": ("encoder",)}

# vllm 0.32.0's wheel on PyPI brings CUDA 13 (requirements/gpu.txt): a driver of branch 580 or later, and
# compute capability 7.5 or later (NVIDIA, release notes of the CUDA toolkit 13). The deployment guide counts
# about 16 GB for an 8 B model; cards of that class report a little less.
MIN_DRIVER = 580
MIN_COMPUTE_CAPABILITY = 7.5
MIN_GPU_MEMORY_MIB = 15000

CONTAINER = """\
vLLM publishes no wheel for {system}. Run Adaptive LoRA in a Linux container instead, from this folder:

    docker run --rm -it -p 127.0.0.1:8000:8000 -v "{root}":/src -v adaptive-lora-venv:/venv -w /src \\
        -e VENV=/venv -e HF_TOKEN -e BASE_MODEL python:3.11-bookworm \\
        make serve SERVE_ARGS="--host 0.0.0.0 --insecure"

The first run installs into the volume adaptive-lora-venv. Only this machine can reach the port."""


class Stop(Exception):
    """The installation cannot go on; the message says what to do."""


def say(text):
    print(f"install: {text}", file=sys.stderr, flush=True)


def check_platform(system, machine):
    """Raise Stop unless there are vLLM wheels for this platform."""
    if system != "Linux":
        raise Stop(CONTAINER.format(system={"Darwin": "macOS"}.get(system, system), root=ROOT))
    if machine not in ("x86_64", "aarch64"):
        raise Stop(f"there is no vLLM wheel for Linux on {machine}: x86_64 or aarch64 is needed")


def version_of(python):
    """(major, minor) of an interpreter; None if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        text = subprocess.check_output([str(python), "-c", code], stderr=subprocess.DEVNULL).decode()
        major, minor = text.strip().split(".")
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def find_python(current=sys.executable):
    """An interpreter of a supported version: the current one if it is, else one on the PATH."""
    for name in (current, *(f"python{major}.{minor}" for major, minor in PYTHONS), "python3"):
        path = shutil.which(name)
        if path and version_of(path) in PYTHONS:
            return path
    raise Stop(
        f"Python 3.11, 3.12 or 3.13 is needed, this is {platform.python_version()}. Install one (Debian, "
        "Ubuntu: apt-get install python3.11 python3.11-venv) or name it: make PYTHON=/path/to/python3.11 ..."
    )


def choose_engine(forced, gpus):
    """("cpu" or "gpu", why). `gpus` is what query_gpus returned: rows, or the reason why there are none."""
    if forced not in ("", "cpu", "gpu"):
        raise Stop(f"ENGINE is {forced!r}: it must be cpu or gpu")
    if forced:
        return forced, f"ENGINE={forced} says so"
    if isinstance(gpus, str):
        return "cpu", gpus
    refused = []
    for name, driver, capability, memory in gpus:
        if driver < MIN_DRIVER:
            refused.append(f"{name}: driver {driver}, at least {MIN_DRIVER} is needed")
        elif capability < MIN_COMPUTE_CAPABILITY:
            refused.append(f"{name}: compute capability {capability}, {MIN_COMPUTE_CAPABILITY} is needed")
        elif memory < MIN_GPU_MEMORY_MIB:
            refused.append(f"{name}: {memory} MiB of memory, {MIN_GPU_MEMORY_MIB} are needed")
        else:
            return "gpu", f"{name}, driver {driver}, compute capability {capability}, {memory} MiB"
    return "cpu", "; ".join(refused) or "nvidia-smi lists no GPU"


def query_gpus():
    """Rows (name, driver branch, compute capability, memory in MiB), or a sentence why there are none."""
    fields = "name,driver_version,compute_cap,memory.total"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.check_output(command, stderr=subprocess.STDOUT, timeout=30)
    except OSError:
        return "no NVIDIA driver here (nvidia-smi not found)"
    except subprocess.TimeoutExpired:
        return "nvidia-smi did not answer within 30 s"
    except subprocess.CalledProcessError as error:
        lines = error.output.decode("utf-8", "replace").strip().splitlines()
        return f"nvidia-smi failed: {lines[0] if lines else 'no output'}"
    return parse_gpus(output.decode("utf-8", "replace"))


def parse_gpus(output):
    """The rows of nvidia-smi's CSV, or a sentence if they cannot be read."""
    rows = []
    for line in output.strip().splitlines():
        try:
            name, driver, capability, memory = (field.strip() for field in line.rsplit(",", 3))
            rows.append((name, int(driver.split(".")[0]), float(capability), int(memory)))
        except ValueError:
            return f"nvidia-smi answered what is not understood: {line}"
    return rows


def locks_for(engine, kind):
    """The lock files of an installation, in the order in which they go in."""
    names = [*(["torch-cpu"] if engine == "cpu" else []), engine, *LAYERS[kind]]
    return [ROOT / "requirements" / f"{name}.txt" for name in names]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamp_path(venv, path):
    """Where the hash of what is installed from `path` is kept."""
    return venv / f".installed-{path.name}"


def is_installed(venv, path):
    """Whether exactly this lock went into `venv`, to its end."""
    stamp = stamp_path(venv, path)
    return stamp.is_file() and stamp.read_text() == digest(path)


def make_venv(python, venv):
    say(f"creating {venv} with {python}")
    command = [python, "-m", "venv", "--clear", str(venv)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode == 0:
        return
    text = result.stdout.decode("utf-8", "replace").strip()
    if "ensurepip" in text or "No module named venv" in text:
        major, minor = version_of(python) or PYTHONS[0]
        raise Stop(
            f"{python} cannot make virtual environments: that part of Python is not installed. Debian: "
            f"apt-get install python{major}.{minor}-venv"
        )
    raise Stop(f"{' '.join(command)} failed:\n{text}")


def pip_install(venv, *arguments):
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--no-warn-script-location"]
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", *options, *arguments]
    if subprocess.call(command, cwd=str(ROOT)) != 0:
        raise Stop(f"pip failed; its own message is above. It was: {' '.join(command)}")


def install_lock(venv, lock):
    say(f"installing requirements/{lock.name} (this can take minutes)")
    if lock.name == "torch-cpu.txt":
        # Few retries: where that index cannot be reached, pip goes on with the indexes that it has.
        options = ["--extra-index-url", TORCH_CPU_INDEX, "--retries", "1", "--timeout", "30"]
    else:
        options = ["--require-hashes", "--only-binary", ":all:"]
    pip_install(venv, "-r", str(lock), *options)
    stamp_path(venv, lock).write_text(digest(lock))


def install(kind, venv, engine):
    """Bring `venv` to the locks of this kind. An environment made for the other engine is made anew."""
    locks = locks_for(engine, kind)
    other = stamp_path(venv, locks_for("gpu" if engine == "cpu" else "cpu", "serve")[-1])
    if version_of(venv / "bin" / "python") not in PYTHONS or other.exists():
        make_venv(find_python(), venv)
    missing = [lock for lock in locks if not is_installed(venv, lock)]
    for lock in missing:
        install_lock(venv, lock)
    package = ROOT / "pyproject.toml"
    if missing or not is_installed(venv, package):
        pip_install(venv, "--no-build-isolation", "--editable", str(ROOT))
        stamp_path(venv, package).write_text(digest(package))


def install_tools(name):
    """Bring build/NAME to its lock, and return that folder."""
    venv, lock = ROOT / "build" / name, ROOT / "requirements" / f"{name}.txt"
    if not is_installed(venv, lock):
        make_venv(find_python(), venv)
        install_lock(venv, lock)
    return venv


def main(arguments):
    kinds = sorted((*LAYERS, *TOOLS))
    if len(arguments) != 1 or arguments[0] not in kinds:
        print(f"usage: install.py {'|'.join(kinds)}", file=sys.stderr)
        return 2
    try:
        if arguments[0] in TOOLS:
            install_tools(arguments[0])
            return 0
        check_platform(platform.system(), platform.machine())
        engine, why = choose_engine(os.environ.get("ENGINE", "").lower(), query_gpus())
        say(f"{'CPU' if engine == 'cpu' else 'CUDA'} build: {why}")
        install(arguments[0], ROOT / (os.environ.get("VENV") or ".venv"), engine)
    except Stop as stop:
        say(stop)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
