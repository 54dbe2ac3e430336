"""From an index and a target layout to a `CopyPlan`: pure data, no I/O."""
