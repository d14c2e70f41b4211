"""Extractor, recognizers and packages."""
