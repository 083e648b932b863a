"""Fits hardware profiles to measurements."""
