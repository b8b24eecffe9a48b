"""Readable text: punctuation, capitals and numbers."""
