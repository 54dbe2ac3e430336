"""The model as PyTorch computes it."""
