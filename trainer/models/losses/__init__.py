"""Losses of a reconstruction beside its squared or absolute error."""
