"""Policies: named compositions of controllers, predictors and routers."""
