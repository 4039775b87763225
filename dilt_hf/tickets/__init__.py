"""Ticket repositories: format, loading, publishing, switching."""
