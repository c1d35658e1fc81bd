"""The database engine room: connections, the write gate, locks, prepared statements, what a driver's error means."""
