"""Servers under load: arrivals, a load generator, the contestants, a search for goodput and its simulation."""
