"""Runs migrations on the connection that batchlic gives; Alembic executes this file."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.get_main_option("version_table") or "",
)
context.run_migrations()
