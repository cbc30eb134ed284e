"""What the broker must survive: packets that are valid, nearly valid and not at all, from many connections at once."""
