"""Alembic's environment: the schema of the database that machines share, version by version."""
