"""How fast aiolit is, beside its peers and beside what the machine allows."""
