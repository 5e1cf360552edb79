"""Benchmarks: lamella and a peer on the same input in the same run."""
