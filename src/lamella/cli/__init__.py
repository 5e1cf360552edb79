"""The command line: a thin skin over the library, in the grammar of ``docker``."""
