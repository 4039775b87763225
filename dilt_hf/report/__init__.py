"""One self-contained HTML page of a run: what it found, how sure that is, what it cost, and where each number is from.

content ─> drawings ─> page
"""
