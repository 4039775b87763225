"""The claims, their evidence, and the judge."""
