"""Orders and duty: the state machine of an emergency reading, the rota."""
