"""Fakes that are part of the product: a CDN that misbehaves on demand, tiny checkpoints."""
