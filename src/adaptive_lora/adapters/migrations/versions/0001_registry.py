"""The registry: versions, their reports, aliases, compositions, history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    state = op.create_table(
        "registry_state",
        sa.Column("id", sa.Integer, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_state"),
        sa.CheckConstraint("id = 1", name=op.f("ck_registry_state_one_row")),
    )
    op.bulk_insert(state, [{"id": 1, "revision": 0}])
    op.create_table(
        "registry_versions",
        sa.Column("name", sa.Text),
        sa.Column("version", sa.Text),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("examples", sa.JSON, nullable=False),
        sa.Column("probes", sa.JSON, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("refusal", sa.Text),
        sa.Column("loaded", sa.Boolean, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("retired", sa.Boolean, nullable=False),
        sa.Column("added_at", MOMENT, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_registry_versions"),
        sa.CheckConstraint(
            "NOT (retired AND (loaded OR pinned))", name=op.f("ck_registry_versions_retired_is_not_loaded")
        ),
    )
    op.create_table(
        "registry_reports",
        sa.Column("name", sa.Text),
        sa.Column("version", sa.Text),
        sa.Column("kind", sa.Text),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "kind", name="pk_registry_reports"),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["registry_versions.name", "registry_versions.version"],
            name="fk_registry_reports_registry_versions",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "registry_aliases",
        sa.Column("name", sa.Text),
        sa.Column("alias", sa.Text),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("share", sa.Double),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_registry_aliases"),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["registry_versions.name", "registry_versions.version"],
            name="fk_registry_aliases_registry_versions",
        ),
        sa.CheckConstraint("share > 0 AND share < 1", name=op.f("ck_registry_aliases_share")),
    )
    op.create_table(
        "registry_compositions",
        sa.Column("spec", sa.Text),
        sa.Column("agents", sa.JSON, nullable=False),
        sa.Column("approved", sa.Boolean, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("spec", name="pk_registry_compositions"),
    )
    op.create_table(
        "registry_history",
        sa.Column("id", sa.BigInteger, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("alias", sa.Text),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_registry_history"),
    )
    op.create_index("ix_registry_history_name_id", "registry_history", ["name", "id"])
