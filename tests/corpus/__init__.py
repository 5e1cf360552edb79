"""Hostile and odd layer archives, made in code."""
