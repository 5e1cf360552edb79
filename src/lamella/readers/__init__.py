"""Stores of any engine, read and never changed: one file behind one interface for each kind."""
