"""Containers: made, started, watched, entered, committed, copied from and removed."""
