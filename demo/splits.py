"""Who belongs to the held-out sets: a pure function of the thing itself, so that no list has to be kept in
step.
"""

from __future__ import annotations

import zlib

_SHARE = 6  # one in six


def held_out(kind: str, key: str) -> bool:
    """Whether the entity, word or task `key` is reserved for the test sets. Case does not matter."""
    return zlib.crc32(f"{kind}:{key.lower()}".encode()) % _SHARE == 0


def held_out_numbers(*numbers: int) -> bool:
    """Whether this set of operands is reserved for the test sets, in any order and under any operation.

    Single-digit facts belong to training alone: nobody learns 7 x 8 from 7 x 9.
    """
    if all(abs(n) < 10 for n in numbers):
        return False
    return held_out("numbers", ",".join(str(n) for n in sorted(numbers)))
