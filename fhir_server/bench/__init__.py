"""`./vigie bench`: figures as ratios in one run on one machine, with audit on and durable (DESIGN §13)."""

from fhir_server.bench.quick import quick

__all__ = ["quick"]
