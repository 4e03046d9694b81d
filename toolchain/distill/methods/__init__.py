"""One file per distillation method: a tuple of terms."""
