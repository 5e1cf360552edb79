"""Registries of the distribution-spec over HTTP: the only package that speaks to the network."""
