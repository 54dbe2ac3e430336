"""Fakes that are part of the product: a CDN that misbehaves on demand, tiny checkpoints."""

from unshard.testing.object_store import FakeObjectStore, Fault
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_parts import write_tiny_parts

__all__ = [
    "FakeObjectStore",
    "Fault",
    "HuggingFaceForm",
    "MetaseqForm",
    "write_tiny_checkpoint",
    "write_tiny_hugging_face",
    "write_tiny_parts",
]
