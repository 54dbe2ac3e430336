"""From files in any layout to one `TensorIndex`."""
