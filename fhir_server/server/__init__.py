"""Assembly and processes: settings, services, the web application, the processes that run them."""
