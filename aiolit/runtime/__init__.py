"""The machinery below reading and writing.

The portal, byte budgets, prefetch, single flight, worker processes, counters.
"""
