"""The ticket explorer: look at the tickets of a repository, compose them and try them on an image, in a browser.

    python -m dilt_hf.explore runs/digits/tickets/seed_0

It needs gradio, which `pip install 'dilt-hf[explore]'` brings; nothing else in the package does.
"""
