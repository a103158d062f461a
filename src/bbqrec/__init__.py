"""Multi-modal generative sequential recommendation with behavior-bound semantic IDs."""

__version__ = "0.1.0"
