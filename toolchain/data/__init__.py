"""Rows from disk to padded batches."""
