"""batchlic: assign, move and take back SIM-Secure licenses for very large device inventories."""
