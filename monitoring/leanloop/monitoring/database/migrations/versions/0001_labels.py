"""Labels and their conflicts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "labels",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("sample", sa.Integer, primary_key=True),
        sa.Column("label", sa.JSON, nullable=False),
        sa.Column("received", sa.Float, nullable=False),
    )
    op.create_index("ix_labels_received", "labels", ["received"])
    op.create_table(
        "label_conflicts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("sample", sa.Integer, nullable=False),
        sa.Column("label", sa.JSON, nullable=False),
        sa.Column("received", sa.Float, nullable=False),
    )
    op.create_index("ix_label_conflicts_model", "label_conflicts", ["model"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("label_conflicts")
    op.drop_table("labels")
