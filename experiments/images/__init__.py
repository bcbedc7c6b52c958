"""Classification of small images by residual networks."""
