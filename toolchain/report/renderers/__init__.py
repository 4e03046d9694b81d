"""One file per rendering."""
