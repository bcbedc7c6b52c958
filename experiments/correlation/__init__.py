"""How much of a dropped value its surroundings give back: why spatial dropout at all."""
