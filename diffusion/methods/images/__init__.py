"""Forgetting given images."""
