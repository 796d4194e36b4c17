"""Alembic runs this, with a connection inside the transaction that holds the lock (registry_schema.py)."""

from alembic import context

from adaptive_lora.adapters.registry_tables import SCHEMA_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=SCHEMA_TABLE,
    transactional_ddl=True,  # on SQLite, too: we begin its transactions ourselves
)
with context.begin_transaction():
    context.run_migrations()
