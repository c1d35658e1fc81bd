"""Search and history: criteria compiled to SQL, plans, order, includes, pages."""
