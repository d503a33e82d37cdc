"""Typed results in, files out: certificate, model card, pages, figures."""
