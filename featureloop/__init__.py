"""featureloop: hospitals improve each other's AI without sharing an image."""

__version__ = "0.1.0"
