"""Tensor-parallel ranks: processes that each hold a slice of one model."""
