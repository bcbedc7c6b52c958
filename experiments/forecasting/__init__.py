"""Forecasting: hourly weather, networks that say how warm tomorrow will be, and their error."""
