"""The command line: arguments to one library call, and the only layer that prints."""
