"""The chunk cache of a host: one folder, one byte limit, any number of processes."""
