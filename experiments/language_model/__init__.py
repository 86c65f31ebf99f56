"""A language model, trained as in a real run."""
