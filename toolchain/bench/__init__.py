"""The one timing loop, in a process of its own."""
