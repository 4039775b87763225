"""One run: its context, its cached steps, its methods, its tickets."""
