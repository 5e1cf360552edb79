"""Docker's JSON of one thing each: what ``inspect``, ``history`` and ``ps`` show; never read back by lamella."""
