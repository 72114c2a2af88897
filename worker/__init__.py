"""Stocktake mirrors integration installs into DuckDB and announces what changed."""

__version__ = "0.1.0"
