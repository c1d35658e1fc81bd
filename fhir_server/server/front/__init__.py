"""The asynchronous front: receives requests, and hands complete ones to the synchronous core (docs/decisions/0011)."""
