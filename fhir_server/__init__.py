"""The FHIR edge and the composition root."""
