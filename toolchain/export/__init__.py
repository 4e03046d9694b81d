"""From a trained model to a file that a runtime loads."""
