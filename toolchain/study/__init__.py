"""The framework of distillation as an experiment on one's own data: one axis at a time."""
