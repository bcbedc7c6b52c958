"""Schedules of a rate, compared on tasks of other families."""
