"""batchlic: assign, move and take back SIM-Secure licences for very large device inventories."""
