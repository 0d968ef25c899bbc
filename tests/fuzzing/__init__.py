"""Seeded malformed requests to every entry of a real server, and what each answer must be."""
