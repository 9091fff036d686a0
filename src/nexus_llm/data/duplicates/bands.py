"""How MinHash signatures are cut into bands."""

# 14 × 8: s = 0.7 is found with probability 0.56, 0.8 with 0.92, 0.9 with 0.9997, and 0.5 with 0.05.
BANDS = 14
ROWS = 8
