"""Fakes that are part of the product: a CDN that misbehaves on demand, tiny checkpoints."""

from unshard.testing.object_store import FakeObjectStore, Fault
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

__all__ = ["FakeObjectStore", "Fault", "write_tiny_checkpoint"]
