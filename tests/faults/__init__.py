"""What clients, networks and machines do wrong, and what it may cost the others: nothing."""
