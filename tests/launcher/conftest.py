"""The server that these tests speak to."""

from tests.clients.site import engine, own_site, site, sites

__all__ = ["engine", "own_site", "site", "sites"]
