"""Requests of all kinds by the hundred thousand, mostly broken, to a service of two workers."""
