"""lamella: a container image store on Docker's own overlay2 layout, without a daemon."""
