"""Running a `CopyPlan` into a sink: files, digests or a live model."""
