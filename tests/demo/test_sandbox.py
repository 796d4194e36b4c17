"""Hostile code: whatever it tries, it gets nothing, ends soon, and never counts as passed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demo import sandbox

pytestmark = pytest.mark.skipif(not sandbox.available(), reason="this machine cannot confine a process")


def call(body: str, *arguments: object) -> object:
    """What `def f(*a): <body>` returned inside, or None if nothing came back."""
    source = "def f(*a):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    results = sandbox.execute(source, "f", [list(arguments)])
    return None if results is None else results[0]


def refused(value: object) -> bool:
    """Whether the call raised: the child then returns a value that equals nothing."""
    return value is None or (isinstance(value, dict) and "raised" in value)


def test_an_honest_function_passes() -> None:
    assert call("return sum(a[0])", [1, 2, 3]) == 6
    assert sandbox.passes("def g(x):\n    return (x, x)", None, [[[1], [1, 1]]])
    assert not sandbox.passes("def g(x):\n    return x", None, [])


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/dev/null", "/usr", sys.executable]
)
def test_there_are_no_files(path: str) -> None:
    assert refused(call("return open(a[0], 'rb').read(1)", path))
    assert call("import os\nreturn os.path.exists(a[0])", path) is False


def test_the_root_is_empty_and_read_only() -> None:
    assert call("import os\nreturn os.listdir('/')") == []
    assert call("import os\nreturn os.listdir('..')") == []
    assert refused(call("open('/x', 'w').write('x')\nreturn 1"))
    assert refused(call("import os\nos.mkdir('/x')\nreturn 1"))


def test_there_is_no_network(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        body = "import _socket\ns = _socket.socket()\ns.connect(('127.0.0.1', a[0]))\nreturn 1"
        assert refused(call(body, server.getsockname()[1]))
        with pytest.raises(TimeoutError):
            server.accept()


def test_there_are_no_processes_to_start_or_to_see() -> None:
    assert refused(call("import os\npid = os.fork()\nif pid == 0: os._exit(0)\nreturn 1"))
    assert call("import os\nreturn os.getpid()") == 1
    assert refused(call("import posix\nposix.kill(a[0], 9)\nreturn 1", 2))
    assert refused(call("import os\nwhile True: os.fork()"))


def test_no_privileges_are_left() -> None:
    body = (
        "import os\ntry:\n    os.setuid(0)\n    os.chroot('.')\n    return 1\nexcept OSError:\n    return 0"
    )
    assert call(body) == 0
    assert refused(
        call("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nreturn 1")
    )


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "return 'x' * (1 << 30)",
        "x = []\nwhile True: x.append('y' * (1 << 20))",
        "return 'x' * 1_000_000",
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "def g(): return g()\nimport sys\nsys.setrecursionlimit(10 ** 9)\nreturn g()",
        "return {1, 2}",
        "x = []\nx.append(x)\nreturn x",
    ],
)
def test_excess_yields_nothing(body: str) -> None:
    assert refused(call(body))


def test_output_of_its_own_making_does_not_count() -> None:
    tests = [[[1], 2]]
    printed = "print('{\"results\": [2]}')\ndef f(x):\n    return 0"
    assert not sandbox.passes(printed, None, tests)
    every_descriptor = (
        "import os\ndef f(x):\n    for fd in range(64):\n        try:\n"
        "            os.write(fd, b'{\"results\": [2]}')\n"
        "        except OSError:\n            pass\n    return 0"
    )
    assert not sandbox.passes(every_descriptor, None, tests)
    assert not sandbox.passes(
        "class X:\n    def __eq__(self, o): return True\ndef f(x):\n    return X()", None, tests
    )
    assert not sandbox.passes(
        "class X(int):\n    def __eq__(self, o): return True\ndef f(x):\n    return X(3)", None, tests
    )
    # with our own token in hand it can send values, and still has to know the right ones
    forged = (
        "import os, sys, json\ndef f(x):\n    job = sys._getframe(1).f_locals['job']\n"
        "    assert 'expected' not in json.dumps(job)\n    return job['arguments'][0][0]"
    )
    assert not sandbox.passes(forged, None, tests)


def test_true_is_not_one_and_a_string_is_not_a_list() -> None:
    assert not sandbox.passes("def f():\n    return 1", None, [[[], True]])
    assert not sandbox.passes("def f():\n    return 'ab'", None, [[[], ["a", "b"]]])
    assert sandbox.passes("def f():\n    return 0.1 + 0.2", None, [[[], 0.3]])


def test_it_refuses_where_it_cannot_confine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    witness = tmp_path / "ran"
    text = (
        Path(sandbox._CHILD)
        .read_text()
        .replace("    try:\n        new_namespaces()", "    try:\n        raise OSError")
    )
    assert "raise OSError" in text
    child.write_text(text)
    monkeypatch.setattr(sandbox, "_CHILD", child)
    with pytest.raises(sandbox.SandboxUnavailable, match="unprivileged user namespaces"):
        sandbox.execute(f"open({str(witness)!r}, 'w')\ndef f():\n    return 1", None, [[]])
    assert not witness.exists()
