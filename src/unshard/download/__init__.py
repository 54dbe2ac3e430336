"""From a presigned URL to verified files: resumable, parallel, secrets kept."""
