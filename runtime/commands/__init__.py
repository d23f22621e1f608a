"""The subcommands, one module each, imported only when they run."""
