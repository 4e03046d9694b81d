"""The demonstration: a real encoder on a task that is generated here."""
