"""Theorems as checks on fresh random instances, and the command that runs them."""
