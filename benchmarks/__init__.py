"""Measurements, side by side with other tools. Never run as tests: times depend on the machine."""
