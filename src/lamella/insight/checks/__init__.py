"""The checks of a data-root, one function for each rule, gathered by the place they look at."""
