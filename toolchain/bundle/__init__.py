"""The folder that runs on the device: model, tokenizer, golden vectors, sample, self-test."""
