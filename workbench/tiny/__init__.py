"""The tiny world: corpus, tokenizer and pretraining of the shipped models."""
