"""Data in other forms, as inputs and functions of ``optimize``."""
