"""Decisions: what comes in which order, what to merge, when to try again. Pure functions."""
