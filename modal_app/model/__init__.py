"""How runs reach the model: the grant of each (an address and a token), and the record of its exchanges."""
