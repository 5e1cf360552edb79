"""For those who extend lamella: the suites that every implementation of a seam must pass."""
