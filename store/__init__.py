"""Where it lives: transactions, versions, search index, objects; defines the ports that others implement."""
