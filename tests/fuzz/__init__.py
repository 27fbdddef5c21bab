"""Bytes that nobody meant, for hours if need be: `make fuzz` (see docs/design.md)."""
