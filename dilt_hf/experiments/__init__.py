"""What a user runs: find, analyze, specialise, transfer, apply, route, shrink."""
