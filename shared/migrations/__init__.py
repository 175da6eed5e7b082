"""Alembic migrations of the whole database, in order; run by `python -m ops provision`."""
