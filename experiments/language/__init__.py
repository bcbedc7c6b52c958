"""A language model: sentences as characters, a transformer that says the next, its perplexity."""
