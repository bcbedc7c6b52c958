"""Language models of words: an LSTM and a transformer, with dropout at each of their places."""
