"""Ends with 0 if a path of this container's server answers 200: `python scripts/healthcheck.py /live`.

For images, which have Python and no curl. The port is api.port's variable, or 8000; proxies are not asked.
"""

from __future__ import annotations

import http.client
import os
import sys


def main(path: str) -> int:
    port = int(os.environ.get("ADAPTIVE_LORA_API__PORT") or 8000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except OSError as error:
        print(f"{path} on port {port}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if status != 200:
        print(f"{path} on port {port}: {status}", file=sys.stderr)
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
