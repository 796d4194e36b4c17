"""Files and batches: what callers leave here to be answered in the background."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "batch_files",
        sa.Column("id", sa.Text),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batch_files"),
    )
    op.create_index("ix_batch_files_tenant_created_at_id", "batch_files", ["tenant", "created_at", "id"])
    op.create_table(
        "batch_jobs",
        sa.Column("id", sa.Text),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("caller", sa.JSON, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("input_file_id", sa.Text, nullable=False),
        sa.Column("output_file_id", sa.Text),
        sa.Column("error_file_id", sa.Text),
        sa.Column("output_seconds", sa.BigInteger),
        sa.Column("labels", sa.JSON),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("errors", sa.JSON),
        sa.Column("n_requests", sa.Integer, nullable=False),
        sa.Column("n_completed", sa.Integer, nullable=False),
        sa.Column("n_failed", sa.Integer, nullable=False),
        sa.Column("n_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("n_output_tokens", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("in_progress_at", MOMENT),
        sa.Column("finalizing_at", MOMENT),
        sa.Column("cancelling_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("holder", sa.Text),
        sa.Column("held_until", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_batch_jobs"),
    )
    op.create_index("ix_batch_jobs_tenant_created_at_id", "batch_jobs", ["tenant", "created_at", "id"])
    op.create_index("ix_batch_jobs_ended_at", "batch_jobs", ["ended_at"])
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.Text),
        sa.Column("line", sa.Integer, autoincrement=False),
        sa.Column("is_error", sa.Boolean, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "line", name="pk_batch_results"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batch_jobs.id"], name="fk_batch_results_batch_jobs", ondelete="CASCADE"
        ),
    )
