"""Plans a training on a slice of TPUs that is not at hand, by compiling its step."""
