"""Train the router as a configuration file says: a versioned bundle and a report.

    python experiments/train_router.py --config configs/router/training_config.yaml

`adaptive-lora router fit` does the same with flags.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.training.router import load_config, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/router/training_config.yaml"))
    arguments = parser.parse_args()
    try:
        trained = train(load_config(arguments.config), progress=lambda text: print(text, file=sys.stderr))
    except AdaptiveLoraError as error:
        sys.exit(f"error: {error.message}")
    print(json.dumps({"version": trained.version, "report": str(trained.report), **trained.figures}))


if __name__ == "__main__":
    main()
