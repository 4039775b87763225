"""`python -m dilt_hf.stages ls|show|gc RUN`: what a run has on disk."""

from dilt_hf.cli.stages import main

if __name__ == "__main__":
    main()
