"""The HTTP edge of FHIR: requests in, interactions, responses out."""
