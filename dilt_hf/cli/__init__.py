"""The command line: options, commands, the listing of cached steps."""
