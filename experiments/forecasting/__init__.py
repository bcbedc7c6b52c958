"""Forecasting: hourly weather, networks that forecast a temperature, and their error."""
