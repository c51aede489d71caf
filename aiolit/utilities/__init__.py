"""Documented import paths of LitData, re-exported."""
