"""What comes and goes must leave nothing behind: on the engine's ledger, among Python's objects, in resident memory."""
