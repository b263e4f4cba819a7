"""The command line; each module imports only what its command needs."""
