"""Limits, attempts, sizes, costs, quotas and idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orgs", sa.Column("max_running", sa.Integer(), nullable=True))
    op.add_column("orgs", sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True))
    op.add_column("orgs", sa.Column("keep_days", sa.Float(), nullable=True))
    op.add_column("orgs", sa.Column("keep_jobs", sa.Integer(), nullable=True))
    op.add_column("datasets", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="2"))
    op.add_column("jobs", sa.Column("max_attempts", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("max_run_s", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("max_pending_s", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("attempts", sa.JSON(), nullable=False, server_default="[]"))
    for name in ("run_seconds", "cpu_seconds", "gpu_seconds", "cost"):
        op.add_column("jobs", sa.Column(name, sa.Float(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("state_name", sa.String(100), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("due_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("pending_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("unaccounted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_jobs_queue", "jobs", ["state", "priority", "due_at"])
    op.create_index("ix_jobs_state_name", "jobs", ["state_name"])
    op.create_index("ix_jobs_unaccounted", "jobs", ["unaccounted"])
    op.create_table(
        "usage_records",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=True),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("cpu_seconds", sa.Float(), nullable=False),
        sa.Column("gpu_seconds", sa.Float(), nullable=False),
        sa.Column("gpu_type", sa.String(100), nullable=True),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "started_at", name="pk_usage_records"),
    )
    op.create_index("ix_usage_records_org_started", "usage_records", ["org", "started_at"])
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.String(100), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_idempotency_keys_org", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_index("uq_idempotency_keys_org_user_id_key", "idempotency_keys", ["org", "user_id", "key"], unique=True)


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    op.drop_table("usage_records")
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_index("ix_jobs_state_name", "jobs")
    op.drop_index("ix_jobs_unaccounted", "jobs")
    for name in ("max_running", "max_storage_bytes", "keep_days", "keep_jobs"):
        op.drop_column("orgs", name)
    op.drop_column("datasets", "size_bytes")
    for name in (
        *("priority", "max_attempts", "max_run_s", "max_pending_s", "expires_at", "size_bytes", "attempts"),
        *("run_seconds", "cpu_seconds", "gpu_seconds", "cost"),
        *("state_name", "due_at", "pending_at", "unaccounted"),
    ):
        op.drop_column("jobs", name)
