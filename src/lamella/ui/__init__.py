"""The page: a store drawn in a browser, served by this process to this machine alone, and never changed by it."""
