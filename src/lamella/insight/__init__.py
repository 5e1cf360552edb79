"""Seeing through a store: what is what, where it came from, what it costs, whether it is sound, and mending it."""
