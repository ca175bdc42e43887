"""Alerts know their release and who told them; whether a window drifts stands in its verdict alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add to the alerts, take from the windows."""
    with op.batch_alter_table("alerts") as batch:
        batch.add_column(sa.Column("version", sa.Integer, nullable=True))
        batch.add_column(sa.Column("source", sa.String(16), nullable=False, server_default="told"))
        batch.create_index("ix_alerts_incident", ["incident"])
    with op.batch_alter_table("windows") as batch:
        batch.drop_column("drifts")


def downgrade() -> None:
    """Back; what the windows' column held is not known any more."""
    with op.batch_alter_table("windows") as batch:
        batch.add_column(sa.Column("drifts", sa.Boolean, nullable=True))
    with op.batch_alter_table("alerts") as batch:
        batch.drop_index("ix_alerts_incident")
        batch.drop_column("source")
        batch.drop_column("version")
