"""What `soak.py` is made of: the server's process, clients, and the book of what became of their requests."""
