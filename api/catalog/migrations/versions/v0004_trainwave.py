"""Projects, commands, secrets of orgs and sessions of command lines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_projects_org", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_index("uq_projects_org_name", "projects", ["org", "name"], unique=True)
    op.create_table(
        "command_jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("upload_sha256", sa.String(64), nullable=True),
        sa.Column("code_bytes", sa.BigInteger(), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_command_jobs_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_command_jobs_project_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_command_jobs_user_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_command_jobs"),
        sa.UniqueConstraint("upload_sha256", name="uq_command_jobs_upload_sha256"),
    )
    op.create_index("ix_command_jobs_project", "command_jobs", ["project_id"])
    op.create_table(
        "org_secrets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_org_secrets_org", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_org_secrets_project_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_org_secrets"),
    )
    op.create_index("ix_org_secrets_org_name", "org_secrets", ["org", "name"])
    op.create_table(
        "cli_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("org", sa.String(255), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_cli_sessions_org", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_cli_sessions_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_cli_sessions"),
        sa.UniqueConstraint("token_sha256", name="uq_cli_sessions_token_sha256"),
    )
    op.create_index("ix_cli_sessions_expires_at", "cli_sessions", ["expires_at"])


def downgrade() -> None:
    for name in ("cli_sessions", "org_secrets", "command_jobs", "projects"):
        op.drop_table(name)
