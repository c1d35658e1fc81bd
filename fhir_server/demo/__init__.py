"""The demonstration: a small world, and one emergency played in it with real clients."""
