"""What the commands do; each module imports only what its command needs."""
