"""An operator's duties as functions: commands call them, and operations of the admin scope may."""
