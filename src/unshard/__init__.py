"""unshard: from a presigned URL of sharded metaseq/OPT weights to a running API."""

__version__ = "0.1.0"
