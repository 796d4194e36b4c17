"""What a server with these settings would serve, for commands that start no server: registry and files,
read."""

from __future__ import annotations

import logging

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.catalog import Catalog
from adaptive_lora.adapters.records import PROD, Snapshot
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.agents.view import Alias, FleetView
from adaptive_lora.errors import AdapterError, StorageError

_log = logging.getLogger(__name__)


def offline_view(
    snapshot: Snapshot, catalog: Catalog, store: Store, *, base: BaseModelInfo, max_rank: int
) -> FleetView:
    """Versions whose files are on this host, verified; aliases as the registry has them. Blocking.

    What the registry does not know yet is `prod`, as a server that starts would have it.
    """
    found = {version.id: version for version in catalog.versions}
    known = {record.id for record in snapshot.versions if not record.retired}
    for record in snapshot.versions:
        if record.id in known and record.id not in found and store.has(record.name, record.version):
            path = store.path_of(record.name, record.version)
            try:
                found[record.id] = verify_adapter(path, base=base, max_rank=max_rank)
            except (AdapterError, StorageError) as error:
                _log.warning("%s is left out: %s", record.id, error.message)
    aliases: dict[str, dict[str, Alias]] = {}
    for pointer in snapshot.aliases:
        target = Alias(pointer.version, pointer.share or 0.0)
        aliases.setdefault(pointer.name, {})[pointer.alias] = target
    for version in catalog.versions:
        if version.id not in known:
            aliases.setdefault(version.name, {})[PROD] = Alias(version.version)
    return FleetView(found, aliases)
