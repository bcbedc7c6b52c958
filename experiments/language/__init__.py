"""A language model: a transformer that predicts the next character of sentences."""
