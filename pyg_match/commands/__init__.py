"""Commands of the command line, in groups."""
