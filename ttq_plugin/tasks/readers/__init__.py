"""Readers of recordings in their official public forms."""
