"""What FHIR means here: definitions, rules, search semantics. Pure: no I/O beyond its own packaged tables."""
