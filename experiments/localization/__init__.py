"""Localization: keypoints of figures in composed scenes, by heat maps."""
