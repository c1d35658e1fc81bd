"""Versions of resources: tables, statements, snapshots, audiences, referential integrity."""
