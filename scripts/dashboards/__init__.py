"""The Grafana dashboards, as code; `gen_dashboards.py` makes their JSON."""

from __future__ import annotations

from dashboards.fleet import FLEET
from dashboards.router import ROUTER
from dashboards.service import SERVICE

DASHBOARDS = {"service": SERVICE, "fleet": FLEET, "router": ROUTER}
