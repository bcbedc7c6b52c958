"""Training experiments: which dropout helps, measured on real data."""
