# ruff: noqa: PTH102, PTH106, PTH123, SIM105
"""The confined side of `demo.sandbox`: shut every door, then run the job. Standard library only.

Exit status 77 means that a door could not be shut, and that nothing was run.
"""

import collections  # noqa: F401  (answers may import these; there are no files to import others from)
import ctypes
import functools  # noqa: F401
import itertools  # noqa: F401
import json
import math  # noqa: F401
import os
import re  # noqa: F401
import resource
import signal
import string  # noqa: F401
import sys
from typing import Any

REFUSED = 77
NEW_NAMESPACES = (
    0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
)  # mount, UTS, IPC, PID, network
NEW_USER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_PDEATHSIG = 4, 38, 24, 1
MEMORY_BYTES = 256 << 20
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def new_namespaces() -> None:
    """Leave the host's users, mounts, processes and network."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and libc.unshare(NEW_NAMESPACES) == 0:
        return  # as root we become nobody later
    check(libc.unshare(NEW_USER | NEW_NAMESPACES), "unshare")
    # one user inside, who is outside the one that we are
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"0 {uid} 1")
    write("/proc/self/gid_map", f"0 {gid} 1")


def empty_root() -> None:
    """Make an empty, read-only file system the root, and let go of the old one."""
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private")
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    check(libc.mount(b"none", b"/tmp", b"tmpfs", flags, b"size=4k,mode=755"), "tmpfs")
    os.chdir("/tmp")
    os.mkdir("old")
    check(
        libc.syscall(155, b".", b"old") if os.uname().machine == "x86_64" else libc.syscall(41, b".", b"old"),
        "pivot",
    )
    os.chdir("/")
    check(libc.umount2(b"/old", MNT_DETACH), "detach")
    os.rmdir("/old")
    check(libc.mount(None, b"/", None, MS_REMOUNT | MS_RDONLY | flags, None), "read-only")


def drop_privileges() -> None:
    """No capabilities, no way to get any, and limits that cannot be raised again."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    try:
        os.setgroups([])
    except OSError:
        pass  # denied inside a user namespace, where there is nothing to drop
    try:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        # only one user is mapped: give its capabilities back instead
        header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        check(libc.capset(header, empty), "capset")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    limits = {
        resource.RLIMIT_CPU: 2,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 65_536,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_STACK: 16 << 20,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        return
    raise OSError("the limit on processes does not hold")  # the kernel exempts its own root


def serve(job: dict[str, Any]) -> dict[str, Any]:
    """Define the function and call it."""
    scope: dict[str, Any] = {"__name__": "answer"}
    exec(compile(job["source"], "<answer>", "exec"), scope)
    name = job["function"]
    if name is None:
        defined = [
            k for k, v in scope.items() if type(v) is type(serve) and v.__code__.co_filename == "<answer>"
        ]
        name = defined[-1]
    results = []
    for arguments in job["arguments"]:
        try:
            results.append(scope[name](*arguments))
        except Exception:
            results.append({"raised": job["token"]})
    return {"token": job["token"], "results": results}


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    try:
        new_namespaces()
    except OSError:
        os._exit(REFUSED)
    first = (
        os.fork()
    )  # the first process of the new PID namespace: when it ends, the kernel ends all others in it
    if first:
        status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        os._exit(REFUSED if status == REFUSED else 0)
    try:
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        empty_root()
        out = os.dup(1)
        null = os.open("/", os.O_RDONLY)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        os.closerange(3, out)
        os.closerange(out + 1, 256)
        drop_privileges()
    except OSError:
        os._exit(REFUSED)
    try:
        answer = json.dumps(serve(job)).encode()
    except BaseException:
        os._exit(0)
    os.write(out, answer)
    os._exit(0)


if __name__ == "__main__":
    main()
