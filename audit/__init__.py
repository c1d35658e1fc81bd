"""Who did: BALP AuditEvents in a Merkle log."""
