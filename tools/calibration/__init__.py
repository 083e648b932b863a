"""Fits of the plant's coefficients to the measurements in ../shared/data."""
