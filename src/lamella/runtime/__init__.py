"""Running processes: the OCI runtime, its configuration, and the monitor that outlives us."""
