"""Run by Alembic, on the connection that `open_database` made."""

from alembic import context

from leanloop.monitoring.database.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
