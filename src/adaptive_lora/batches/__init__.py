"""Files that callers leave here, and batches of requests from them: records, contents, and who runs what."""
