"""What runs a model file, behind one protocol."""
