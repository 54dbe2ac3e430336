"""Readers of file formats: bytes to `TensorRef`s and inert metadata. Nothing is executed."""
