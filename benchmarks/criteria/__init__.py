"""Figures, tables and the chart of exit criteria, from recorded exits."""
