"""One module a command; the table of commands names them, and only the one asked for is loaded."""
