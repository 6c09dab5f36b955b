"""Docstring search with a reranker whose documents leave early: what is searched, the models, and what it is worth."""
