"""Writing data sets: optimize, map, merge; workers, uploads, the commit."""
