"""Who may: OAuth2, SMART scopes, the organisation predicate."""
