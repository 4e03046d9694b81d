"""Outputs against the parent's, the task metric, and the gates."""
