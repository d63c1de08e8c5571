"""Workspaces, pulls and variables of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("description", sa.String(1000), nullable=False),
        sa.Column("version", sa.String(500), nullable=False),
        sa.Column("cloud_type", sa.String(20), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_workspaces_org"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_workspaces_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_workspaces"),
    )
    op.create_index("ix_workspaces_org_created", "workspaces", ["org", "created_at"])
    op.create_table(
        "pulls",
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("message", sa.String(1000), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_pulls_dataset_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_pulls_workspace_id", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("dataset_id", name="pk_pulls"),
    )
    op.create_index("ix_pulls_state", "pulls", ["state"])
    op.create_index("ix_pulls_workspace_id", "pulls", ["workspace_id"])
    op.create_table(
        "job_variables",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("org", sa.String(255), nullable=False),
        sa.Column("names", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["org"], ["orgs.name"], name="fk_job_variables_org"),
        sa.PrimaryKeyConstraint("owner_id", name="pk_job_variables"),
    )


def downgrade() -> None:
    op.drop_table("job_variables")
    op.drop_table("pulls")
    op.drop_table("workspaces")
