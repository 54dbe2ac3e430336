"""Mutation testing of the packages that read, index and plan (`make mutation`)."""
